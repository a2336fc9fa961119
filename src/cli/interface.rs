//! What `addinterface` and `removeinterface` share: read, judge, write, tell what will happen, follow.

mod follow;
mod migration;
mod not_found;
mod output;
mod write;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;
use tokio::runtime::Builder;

use self::{
    follow::Follower,
    output::Talk,
    write::{Stored, store},
};
use super::{
    facts::SettingsArgs,
    kubeconfig::{Cluster, ClusterArgs, explain},
    serve::Span,
};
use crate::{
    cluster::fetch::{FetchError, FetchPlan, fetch_facts},
    facts::{Fact, FactSource, kubevirt::AutoMigration},
    hotplug::{
        edit::{self, Edit, EditError, EditRequest},
        progress::{self, Direction, Path, Target},
    },
    k8s::{kind::Kind, request::is_valid_name},
    settings::Settings,
};

/// How long facts are waited for. What has not come by then is told and not known.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a change is made anew because somebody else was faster.
const ATTEMPTS: u32 = 5;

/// How long a NIC is followed when only `--migrate` says so: a guest with much memory takes minutes.
const MIGRATION_PATIENCE: Duration = Duration::from_mins(10);

/// Flags of both commands.
#[derive(Args, Debug)]
pub(super) struct InterfaceArgs {
    /// Follow the NIC until it has arrived, or is gone, one line a stage.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    wait: Option<Span>,

    /// Where the NIC needs a live migration that nobody else starts: start it, and follow the NIC (for 10m at most, or as
    /// --wait says).
    #[arg(long)]
    migrate: bool,

    /// Change nothing: none, client (do not send the change) or server (send it, to be judged and not stored).
    #[arg(long, value_name = "WHERE", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t, default_missing_value = "client")]
    dry_run: DryRun,

    /// Print the VM as it is then, and nothing else on standard output.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<Output>,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is not done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum DryRun {
    /// Everything is done.
    #[default]
    None,
    /// Nothing is sent that could change anything.
    Client,
    /// The API server stores nothing.
    Server,
}

/// How an object is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// As JSON.
    Json,
    /// Its name.
    Name,
    /// As YAML.
    Yaml,
}

/// Carries out a wish.
pub(super) fn run(vm: &str, request: &EditRequest, args: &InterfaceArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings.read()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")?;
    runtime.block_on(async {
        let cluster = args.cluster.connect().await?;
        for (what, name) in [("VirtualMachine", vm), ("namespace", &cluster.namespace)] {
            ensure!(is_valid_name(name), "{name:?} is no name of a {what}");
        }
        let talk = Talk::new(args.output.is_some());
        Command { vm, request, args, settings, cluster, talk }.carry_out().await
    })
}

/// One call of a command.
struct Command<'c> {
    vm: &'c str,
    request: &'c EditRequest,
    args: &'c InterfaceArgs,
    settings: Settings,
    cluster: Cluster,
    talk: Talk,
}

/// What became of the change.
enum Outcome {
    /// The VM is as it is wanted, and was made so or was so before.
    Fulfilled { edit: Box<Edit>, vm: Value },
    /// It was refused, and told why.
    Refused,
}

impl Command<'_> {
    async fn carry_out(&self) -> anyhow::Result<ExitCode> {
        let Outcome::Fulfilled { edit, vm } = self.change().await? else { return Ok(ExitCode::FAILURE) };
        self.tell_result(&edit, &vm)?;
        if self.args.dry_run != DryRun::None {
            return Ok(ExitCode::SUCCESS);
        }
        self.tell_forecast(&edit).await?;
        match (self.patience(), &edit.running) {
            (Some(patience), Fact::Known(())) => self.follower(&edit).follow(patience).await,
            (Some(_), Fact::Unknown) => {
                self.talk.fault("the NIC cannot be followed: whether the VM runs is not known")?;
                Ok(ExitCode::FAILURE)
            }
            (Some(_), Fact::Absent) | (None, _) => Ok(ExitCode::SUCCESS),
        }
    }

    fn patience(&self) -> Option<Duration> {
        let migration = self.args.migrate.then_some(MIGRATION_PATIENCE);
        self.args.wait.map(|Span(patience)| patience).or(migration)
    }

    fn follower<'f>(&'f self, edit: &'f Edit) -> Follower<'f> {
        let way = match self.request {
            EditRequest::Add(_) => Direction::In,
            EditRequest::Remove(_) => Direction::Out,
        };
        let target = Target { guest: self.vm.to_owned(), nic: self.request.nic().to_owned(), way };
        Follower {
            cluster: &self.cluster,
            talk: &self.talk,
            target,
            cluster_info: &edit.cluster_info,
            migrates: self.args.migrate,
        }
    }

    /// Makes the change, anew where somebody else was faster.
    async fn change(&self) -> anyhow::Result<Outcome> {
        for _ in 0..ATTEMPTS {
            let Some(vm) = self.read_vm().await? else { return Err(self.explain_absence().await) };
            let Some(edit) = self.judge(&vm).await? else { return Ok(Outcome::Refused) };
            if !self.may_go_on(&edit).await? {
                return Ok(Outcome::Refused);
            }
            if !edit.is_needed() || self.args.dry_run == DryRun::Client {
                let vm = edit.object.clone();
                return Ok(Outcome::Fulfilled { edit, vm });
            }
            match store(&self.cluster, self.vm, &edit.patch, self.args.dry_run == DryRun::Server).await? {
                Stored::Conflict => {}
                Stored::Done(vm) => return Ok(Outcome::Fulfilled { edit, vm }),
                Stored::Refused(words) => {
                    self.talk.fault(&words)?;
                    return Ok(Outcome::Refused);
                }
            }
        }
        bail!("{:?} was changed by somebody else {ATTEMPTS} times in a row: try again", self.vm);
    }

    async fn read_vm(&self) -> anyhow::Result<Option<Value>> {
        let vms: Api<DynamicObject> = api(&self.cluster, Kind::Vm);
        match vms.get_opt(self.vm).await {
            Ok(vm) => Ok(vm.map(serde_json::to_value).transpose()?),
            Err(error) => Err(explain(&error).context(format!("VirtualMachine {:?} cannot be read", self.vm))),
        }
    }

    /// The change and its verdict, which is told; `None` when it is refused.
    async fn judge(&self, vm: &Value) -> anyhow::Result<Option<Box<Edit>>> {
        let mut question = FetchPlan::about(&self.cluster.namespace, self.vm);
        if let EditRequest::Add(nic) = self.request {
            question = question.with_network(&nic.network_name);
        }
        let answer = fetch_facts(&self.cluster.client, &question, PATIENCE).await;
        let facts: Arc<dyn FactSource> = Arc::new(answer.store);
        let dry_run = self.args.dry_run == DryRun::Server;
        match edit::edit(vm, self.request, &facts, &self.settings, dry_run) {
            Ok(edit) => {
                self.tell_verdict(&edit, &answer.errors)?;
                Ok(edit.verdict.causes.is_empty().then(|| Box::new(edit)))
            }
            Err(error @ EditError::Unreadable(_)) => Err(error.into()),
            Err(EditError::Malformed(why) | EditError::NameInUse(why)) => {
                self.talk.fault(&why)?;
                Ok(None)
            }
        }
    }

    fn tell_verdict(&self, edit: &Edit, gaps: &[FetchError]) -> anyhow::Result<()> {
        if edit.is_needed() {
            self.tell_gaps(gaps)?;
        }
        for warning in &edit.verdict.warnings {
            self.talk.warn(warning)?;
        }
        let head = format!("The VirtualMachine {:?} is invalid:", self.vm);
        match edit.verdict.causes.as_slice() {
            [] => {}
            [cause] => self.talk.fault(&format!("{head} {cause}"))?,
            causes => self.talk.faults(&head, causes)?,
        }
        Ok(())
    }

    /// Says what is not known. Most users may read a part of the cluster only: all that is on one line.
    fn tell_gaps(&self, gaps: &[FetchError]) -> anyhow::Result<()> {
        let (forbidden, others): (Vec<&FetchError>, Vec<&FetchError>) =
            gaps.iter().partition(|gap| gap.reason.is_forbidden());
        let forbidden: Vec<String> = forbidden.iter().map(|gap| gap.path.to_string()).collect();
        if !forbidden.is_empty() {
            self.talk.note(&format!("not known, as you may not read them: {}", forbidden.join(", ")))?;
        }
        for gap in others {
            self.talk.note(&format!("not known: {gap}"))?;
        }
        Ok(())
    }

    /// Whether a migration that will be asked for is the user's to start: else nothing is changed at all.
    async fn may_go_on(&self, edit: &Edit) -> anyhow::Result<bool> {
        let is_by_hand = edit.running == Fact::Known(()) && is_by_hand(&path_of(edit));
        if !self.args.migrate || !is_by_hand || migration::may_start(&self.cluster).await != Some(false) {
            return Ok(true);
        }
        self.talk.fault("nothing was changed: you may not start the migration that --migrate asks for")?;
        self.talk.block(&migration::who_may(&self.cluster).await)?;
        Ok(false)
    }

    fn tell_result(&self, edit: &Edit, vm: &Value) -> anyhow::Result<()> {
        let name = format!("virtualmachine.kubevirt.io/{}", self.vm);
        let vm = &without_managers(vm);
        match self.args.output {
            Some(Output::Json) => Talk::result(&format!("{}\n", serde_json::to_string_pretty(vm)?))?,
            Some(Output::Name) => Talk::result(&format!("{name}\n"))?,
            Some(Output::Yaml) => Talk::result(&serde_saphyr::to_string(vm)?)?,
            None => {
                let verb = if edit.is_needed() { "patched" } else { "unchanged" };
                let how = match self.args.dry_run {
                    DryRun::None => "",
                    DryRun::Client => " (dry run)",
                    DryRun::Server => " (server dry run)",
                };
                self.talk.say(&format!("{name} {verb}{how}"))?;
            }
        }
        let nic = self.request.nic();
        match self.request {
            _ if edit.is_needed() => {}
            EditRequest::Add(_) => self.talk.say(&format!("{nic:?} is there already"))?,
            EditRequest::Remove(_) => self.talk.say(&format!("there is no {nic:?} to remove"))?,
        }
        Ok(())
    }

    /// Says how the NIC gets into the guest, or out of it.
    async fn tell_forecast(&self, edit: &Edit) -> anyhow::Result<()> {
        let (vm, nic) = (self.vm, self.request.nic());
        let is_new = edit.is_needed();
        match (&edit.running, self.request) {
            (Fact::Absent, EditRequest::Add(_)) => {
                self.talk.say(&format!("{vm:?} does not run: it has {nic:?} when it starts"))?;
            }
            (Fact::Absent, EditRequest::Remove(_)) if is_new => {
                self.talk.say(&format!("{vm:?} does not run: {nic:?} is gone"))?;
            }
            (Fact::Unknown, _) if is_new => {
                self.talk.say(&format!("if {vm:?} runs, KubeVirt brings its guest to the same; that is not known"))?;
            }
            (Fact::Known(()), EditRequest::Add(_)) if is_new => self.tell_path(edit).await?,
            (Fact::Known(()), EditRequest::Remove(_)) if is_new => {
                self.talk.say(&format!("{nic:?} is unplugged as soon as the guest lets it go"))?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn tell_path(&self, edit: &Edit) -> anyhow::Result<()> {
        let nic = self.request.nic();
        let path = path_of(edit);
        let words = match path {
            Path::InPlace => format!("{nic:?} is attached at once: Multus' dynamic-networks controller is ready"),
            Path::Perhaps { ready, desired } => format!(
                "{nic:?} is attached at once if the guest is on one of the {ready} of {desired} nodes where Multus' \
                 dynamic-networks controller is ready, else by a live migration"
            ),
            Path::Migration(AutoMigration::On) => {
                format!("{nic:?} comes with a live migration, which KubeVirt starts by itself")
            }
            Path::Migration(_) if self.args.migrate => format!("{nic:?} comes with a live migration"),
            Path::Migration(_) => {
                format!("{nic:?} comes with a live migration that somebody has to start; --migrate does, or this:")
            }
            Path::Unknown => {
                format!("{nic:?} is attached by Multus or by a live migration: DaemonSets, which tell, cannot be read")
            }
        };
        self.talk.say(&words)?;
        if is_by_hand(&path) && !self.args.migrate {
            self.talk.block(&migration::manifest_in_yaml(&self.cluster.namespace, self.vm)?)?;
            if migration::may_start(&self.cluster).await == Some(false) {
                self.talk.block(&migration::who_may(&self.cluster).await)?;
            }
        }
        Ok(())
    }

    async fn explain_absence(&self) -> anyhow::Error {
        not_found::explain_absence(&self.cluster, self.vm, self.request).await
    }
}

/// The object as kubectl prints it: without the long list of who manages which field.
fn without_managers(vm: &Value) -> Value {
    let mut vm = vm.clone();
    if let Some(metadata) = vm.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    vm
}

fn path_of(edit: &Edit) -> Path {
    progress::path(edit.is_sriov, &edit.cluster_info)
}

/// Whether the NIC needs a migration that KubeVirt, as far as is known, does not start.
fn is_by_hand(path: &Path) -> bool {
    matches!(path, Path::Migration(AutoMigration::Off(_) | AutoMigration::TooOld(_) | AutoMigration::Unknown))
}

/// The objects of a kind in the namespace.
fn api(cluster: &Cluster, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource(kind))
}

fn resource(kind: Kind) -> ApiResource {
    let kind_of = GroupVersionKind::gvk(kind.group(), kind.version(), kind.kind());
    ApiResource::from_gvk_with_plural(&kind_of, kind.plural())
}

//! What `addinterface` and `removeinterface` share: they read the VM, check the change, write it, print what happens
//! next, and follow the NIC.

mod follow;
pub(super) mod migration;
mod not_found;
mod output;
mod write;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;

pub(super) use self::follow::line_at;
use self::{follow::Follower, output::Console, write::WriteResult};
use super::{
    block_on,
    facts::SettingsArgs,
    kubeconfig::{Cluster, ClusterArgs, explain},
    values::HumanDuration,
};
use crate::{
    cluster::fetch::{FetchError, FetchPlan, fetch_facts},
    facts::{Fact, FactSource, kubevirt::AutoMigration},
    hotplug::{
        edit::{self, Edit, EditError, EditRequest},
        progress::{AttachMethod, Direction, Target, attach_method},
    },
    k8s::{kind::Kind, request::is_valid_name},
    settings::Settings,
};

/// The longest time for reading facts. A fact that is not read by then is reported, and counts as unknown.
const FACTS_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of attempts, if another client changes the VM at the same time.
const ATTEMPTS: u32 = 5;

/// The time for `--migrate` without `--wait`: the migration of a guest with much memory takes minutes.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

/// The flags of both commands.
#[derive(Args, Debug)]
pub(super) struct InterfaceArgs {
    /// Wait until the NIC is plugged or unplugged, at most 60s or TIME. Prints one line per stage.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    wait: Option<HumanDuration>,

    /// If the NIC needs a live migration that KubeVirt does not start: start it, and wait for the NIC, at most 10m or
    /// the time of --wait.
    #[arg(long)]
    migrate: bool,

    /// Check the change, and do not store it.
    #[arg(long, value_name = "WHERE", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t, default_missing_value = "client")]
    dry_run: DryRun,

    /// Print the resulting VM on standard output, and everything else on standard error.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<OutputFormat>,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which steps a dry run leaves out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum DryRun {
    /// Store the change.
    #[default]
    None,
    /// Do not send the change.
    Client,
    /// Send the change; the API server and its webhooks check it, and store nothing.
    Server,
}

/// The format of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum OutputFormat {
    /// The VM in JSON.
    Json,
    /// The name of the VM.
    Name,
    /// The VM in YAML.
    Yaml,
}

/// Runs one of the commands.
pub(super) fn run(vm: &str, request: &EditRequest, args: &InterfaceArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings.read()?;
    block_on(async {
        let cluster = args.cluster.connect().await?;
        for (what, name) in [("VirtualMachine", vm), ("namespace", &cluster.namespace)] {
            ensure!(is_valid_name(name), "{name:?} is not a valid name of a {what}");
        }
        let console = Console::new(args.output.is_some());
        Command { vm, request, args, settings, cluster, console }.execute().await
    })
}

/// One call of a command.
struct Command<'c> {
    vm: &'c str,
    request: &'c EditRequest,
    args: &'c InterfaceArgs,
    settings: Settings,
    cluster: Cluster,
    console: Console,
}

/// The result of the change.
enum Outcome {
    /// The VM has the requested state, by this change or already before.
    Done { edit: Box<Edit>, vm: Value },
    /// The change was denied, and the reason is printed.
    Denied,
}

impl Command<'_> {
    async fn execute(&self) -> anyhow::Result<ExitCode> {
        let Outcome::Done { edit, vm } = self.change().await? else { return Ok(ExitCode::FAILURE) };
        self.print_result(&edit, &vm)?;
        if self.args.dry_run != DryRun::None {
            return Ok(ExitCode::SUCCESS);
        }
        self.print_forecast(&edit).await?;
        match (self.timeout(), &edit.running) {
            (Some(timeout), Fact::Known(())) => self.follower(&edit).follow(timeout).await,
            (Some(_), Fact::Unknown) => {
                self.console.error("cannot follow the NIC: it is unknown whether the VM runs")?;
                Ok(ExitCode::FAILURE)
            }
            (Some(_), Fact::Absent) | (None, _) => Ok(ExitCode::SUCCESS),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let migration = self.args.migrate.then_some(MIGRATION_TIMEOUT);
        self.args.wait.map(|HumanDuration(timeout)| timeout).or(migration)
    }

    fn follower<'f>(&'f self, edit: &'f Edit) -> Follower<'f> {
        let direction = match self.request {
            EditRequest::Add(_) => Direction::Attach,
            EditRequest::Remove(_) => Direction::Detach,
        };
        let target = Target { vm: self.vm.to_owned(), nic: self.request.nic().to_owned(), direction };
        Follower {
            cluster: &self.cluster,
            console: &self.console,
            target,
            cluster_info: &edit.cluster_info,
            migrates: self.args.migrate,
        }
    }

    /// Makes the change; again if another client has changed the VM meanwhile.
    async fn change(&self) -> anyhow::Result<Outcome> {
        for _ in 0..ATTEMPTS {
            let Some(vm) = self.read_vm().await? else { return Err(self.not_found().await) };
            let Some(edit) = self.check(&vm).await? else { return Ok(Outcome::Denied) };
            if !self.may_proceed(&edit).await? {
                return Ok(Outcome::Denied);
            }
            if !edit.is_needed() || self.args.dry_run == DryRun::Client {
                let vm = edit.object.clone();
                return Ok(Outcome::Done { edit, vm });
            }
            match write::write(&self.cluster, self.vm, &edit.patch, self.args.dry_run == DryRun::Server).await? {
                WriteResult::Conflict => {}
                WriteResult::Stored(vm) => return Ok(Outcome::Done { edit, vm }),
                WriteResult::Denied(message) => {
                    self.console.error(&message)?;
                    return Ok(Outcome::Denied);
                }
            }
        }
        bail!("another client changed {:?} during each of {ATTEMPTS} attempts: run the command again", self.vm);
    }

    async fn read_vm(&self) -> anyhow::Result<Option<Value>> {
        let vms: Api<DynamicObject> = api(&self.cluster, Kind::Vm);
        match vms.get_opt(self.vm).await {
            Ok(vm) => Ok(vm.map(serde_json::to_value).transpose()?),
            Err(error) => Err(explain(&error).context(format!("VirtualMachine {:?} cannot be read", self.vm))),
        }
    }

    /// Returns the change, and prints its verdict; `None` if it is denied.
    async fn check(&self, vm: &Value) -> anyhow::Result<Option<Box<Edit>>> {
        let mut plan = FetchPlan::about(&self.cluster.namespace, self.vm);
        if let EditRequest::Add(nic) = self.request {
            plan = plan.with_network(&nic.network_name);
        }
        let fetched = fetch_facts(&self.cluster.client, &plan, FACTS_TIMEOUT).await;
        let facts: Arc<dyn FactSource> = Arc::new(fetched.store);
        let dry_run = self.args.dry_run == DryRun::Server;
        match edit::edit(vm, self.request, &facts, &self.settings, dry_run) {
            Ok(edit) => {
                self.print_verdict(&edit, &fetched.errors)?;
                Ok(edit.verdict.causes.is_empty().then(|| Box::new(edit)))
            }
            Err(error @ EditError::Unreadable(_)) => Err(error.into()),
            Err(EditError::Malformed(why) | EditError::NameInUse(why)) => {
                self.console.error(&why)?;
                Ok(None)
            }
        }
    }

    fn print_verdict(&self, edit: &Edit, errors: &[FetchError]) -> anyhow::Result<()> {
        if edit.is_needed() {
            self.print_skipped_checks(errors)?;
        }
        for warning in &edit.verdict.warnings {
            self.console.warn(warning)?;
        }
        let head = format!("The VirtualMachine {:?} is invalid:", self.vm);
        match edit.verdict.causes.as_slice() {
            [] => {}
            [cause] => self.console.error(&format!("{head} {cause}"))?,
            causes => self.console.errors(&head, causes)?,
        }
        Ok(())
    }

    /// Prints which objects could not be read. Most users have permission for a part of the cluster only, so all
    /// objects without permission are on one line.
    fn print_skipped_checks(&self, errors: &[FetchError]) -> anyhow::Result<()> {
        let (forbidden, others): (Vec<&FetchError>, Vec<&FetchError>) =
            errors.iter().partition(|error| error.reason.is_forbidden());
        let forbidden: Vec<String> = forbidden.iter().map(|error| error.path.to_string()).collect();
        if !forbidden.is_empty() {
            self.console.note(&format!("Checks skipped, no permission to read: {}", forbidden.join(", ")))?;
        }
        for error in others {
            self.console.note(&format!("Checks skipped, cannot read {error}"))?;
        }
        Ok(())
    }

    /// Whether the command can continue: not if it will have to start a migration and the user has no permission for
    /// it.
    async fn may_proceed(&self, edit: &Edit) -> anyhow::Result<bool> {
        let needs_migration = edit.running == Fact::Known(()) && needs_manual_migration(&attach_method_of(edit));
        if !self.args.migrate || !needs_migration || migration::may_start(&self.cluster).await != Some(false) {
            return Ok(true);
        }
        self.console
            .error("nothing was changed: you have no permission to create the migration that --migrate starts")?;
        self.console.verbatim(&migration::how_to_grant(&self.cluster).await)?;
        Ok(false)
    }

    fn print_result(&self, edit: &Edit, vm: &Value) -> anyhow::Result<()> {
        let name = format!("virtualmachine.kubevirt.io/{}", self.vm);
        let vm = &without_managers(vm);
        match self.args.output {
            Some(OutputFormat::Json) => Console::object(&format!("{}\n", serde_json::to_string_pretty(vm)?))?,
            Some(OutputFormat::Name) => Console::object(&format!("{name}\n"))?,
            Some(OutputFormat::Yaml) => Console::object(&serde_saphyr::to_string(vm)?)?,
            None => {
                let verb = if edit.is_needed() { "patched" } else { "unchanged" };
                let mode = match self.args.dry_run {
                    DryRun::None => "",
                    DryRun::Client => " (dry run)",
                    DryRun::Server => " (server dry run)",
                };
                self.console.info(&format!("{name} {verb}{mode}"))?;
            }
        }
        let nic = self.request.nic();
        match self.request {
            _ if edit.is_needed() => {}
            EditRequest::Add(_) => self.console.info(&format!("{nic:?} already exists"))?,
            EditRequest::Remove(_) => self.console.info(&format!("{nic:?} does not exist"))?,
        }
        Ok(())
    }

    /// Prints how KubeVirt will plug or unplug the NIC.
    async fn print_forecast(&self, edit: &Edit) -> anyhow::Result<()> {
        let (vm, nic) = (self.vm, self.request.nic());
        let is_new = edit.is_needed();
        match (&edit.running, self.request) {
            (Fact::Absent, EditRequest::Add(_)) => {
                self.console.info(&format!("{vm:?} does not run: it will have {nic:?} at its next start"))?;
            }
            (Fact::Absent, EditRequest::Remove(_)) if is_new => {
                self.console.info(&format!("{vm:?} does not run: {nic:?} is removed"))?;
            }
            (Fact::Unknown, _) if is_new => {
                self.console.info(&format!(
                    "it is unknown whether {vm:?} runs; if it does, KubeVirt applies the change to the guest"
                ))?;
            }
            (Fact::Known(()), EditRequest::Add(_)) if is_new => self.print_attach_method(edit).await?,
            (Fact::Known(()), EditRequest::Remove(_)) if is_new => {
                self.console.info(&format!("{nic:?} is unplugged as soon as the guest releases it"))?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn print_attach_method(&self, edit: &Edit) -> anyhow::Result<()> {
        let nic = self.request.nic();
        let method = attach_method_of(edit);
        let text = match method {
            AttachMethod::InPlace => {
                format!("{nic:?} is attached at once: Multus' dynamic-networks controller is ready")
            }
            AttachMethod::InPlaceOnSomeNodes { ready, desired } => format!(
                "{nic:?} is attached at once if the guest is on one of the {ready} of {desired} nodes where Multus' \
                 dynamic-networks controller is ready, otherwise by a live migration"
            ),
            AttachMethod::Migration(AutoMigration::On) => {
                format!("{nic:?} is attached by a live migration, which KubeVirt starts")
            }
            AttachMethod::Migration(_) if self.args.migrate => format!("{nic:?} is attached by a live migration"),
            AttachMethod::Migration(_) => {
                format!("{nic:?} is attached by a live migration, which a user must start: pass --migrate, or run")
            }
            AttachMethod::Unknown => {
                format!(
                    "{nic:?} is attached by Multus or by a live migration: the DaemonSets that decide it cannot be read"
                )
            }
        };
        self.console.info(&text)?;
        if needs_manual_migration(&method) && !self.args.migrate {
            self.console.verbatim(&migration::create_command(&self.cluster.namespace, self.vm)?)?;
            if migration::may_start(&self.cluster).await == Some(false) {
                self.console.verbatim(&migration::how_to_grant(&self.cluster).await)?;
            }
        }
        Ok(())
    }

    async fn not_found(&self) -> anyhow::Error {
        not_found::error(&self.cluster, self.vm, self.request).await
    }
}

/// Returns the object as kubectl prints it, without the long list of field managers.
fn without_managers(vm: &Value) -> Value {
    let mut vm = vm.clone();
    if let Some(metadata) = vm.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    vm
}

fn attach_method_of(edit: &Edit) -> AttachMethod {
    attach_method(edit.is_sriov, &edit.cluster_info)
}

/// Whether the NIC needs a migration that KubeVirt does not start, as far as is known.
fn needs_manual_migration(method: &AttachMethod) -> bool {
    matches!(method, AttachMethod::Migration(migration) if *migration != AutoMigration::On)
}

/// Returns the client for a kind in the namespace of the command.
fn api(cluster: &Cluster, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource(kind))
}

pub(super) fn resource(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(kind.group(), kind.version(), kind.kind());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

//! What `addinterface` and `removeinterface` share: they read the VM, check the change, write it, print what happens
//! next, and follow the NIC.

mod follow;
mod forecast;
pub(super) mod migration;
mod not_found;
mod output;
mod several;
mod undo;
mod write;

use std::{num::NonZeroUsize, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;

pub(super) use self::follow::head;
use self::{
    follow::Follower,
    output::{Console, can_ask},
    several::Several,
    write::WriteResult,
};
use super::{
    arguments::program,
    block_on,
    facts::SettingsArgs,
    guests::names_in,
    kubeconfig::{Cluster, ClusterArgs, explain},
    values::HumanDuration,
};
use crate::{
    cluster::fetch::{FetchError, FetchPlan, fetch_facts},
    facts::{Fact, FactSource},
    hotplug::{
        edit::{self, Edit, EditError, EditRequest},
        progress::{Direction, Target},
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

/// The VMs of both commands.
#[derive(Args, Debug)]
pub(super) struct VmArgs {
    /// Names of VirtualMachines, such as NAME or vm/NAME.
    #[arg(value_name = "VM", required_unless_present = "selector")]
    vms: Vec<String>,

    /// All VMs with these labels, such as app=web.
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "vms")]
    selector: Option<String>,

    /// Change several VMs without a question.
    #[arg(short, long)]
    yes: bool,
}

/// The flags of both commands.
#[derive(Args, Debug)]
pub(super) struct InterfaceArgs {
    /// Wait until the NIC is plugged or unplugged, at most 60s or TIME for each VM. Prints one line per stage.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    wait: Option<HumanDuration>,

    /// If the NIC needs a live migration that KubeVirt does not start: start it, and wait for the NIC, at most 10m or
    /// the time of --wait.
    #[arg(long)]
    migrate: bool,

    /// Of several VMs change at most N at a time whose NIC needs a live migration, and wait for each.
    #[arg(long, value_name = "N")]
    max_migrations: Option<NonZeroUsize>,

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

impl OutputFormat {
    /// Prints the names of VMs, or an object about them.
    fn print(self, vms: &[&str], object: impl FnOnce() -> Value) -> anyhow::Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(&object())? + "\n",
            Self::Name => vms.iter().map(|vm| resource_name(vm) + "\n").collect(),
            Self::Yaml => serde_saphyr::to_string(&object())?,
        };
        Ok(Console::object(&text)?)
    }
}

/// What a command does to each VM.
pub(super) struct Job {
    pub(super) request: EditRequest,
    /// Whether the command succeeds if the NIC to remove does not exist.
    pub(super) ignores_missing: bool,
}

/// Runs one of the commands.
pub(super) fn run(vms: &VmArgs, job: &Job, args: &InterfaceArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings.read()?;
    let names = names_in(&vms.vms)?;
    if let Some(time) = args.wait.and_then(|_| names.iter().find(|name| name.parse::<HumanDuration>().is_ok())) {
        bail!("{time:?} is a time and not the name of a VM: write --wait={time}");
    }
    let is_single = vms.selector.is_none() && names.len() == 1;
    ensure!(
        is_single || vms.yes || args.dry_run != DryRun::None || can_ask(),
        "several VMs can change, and nicplug cannot ask without a terminal: pass --yes to change them, or --dry-run to see \
         what would happen"
    );
    block_on(async {
        let cluster = args.cluster.connect(&settings).await?;
        ensure!(is_valid_name(&cluster.namespace), "{:?} is not a valid name of a namespace", cluster.namespace);
        let console = Console::new(args.output.is_some());
        let context = CommandContext { job, args, settings: &settings, cluster: &cluster };
        match names.as_slice() {
            [vm] if is_single => Command { vm, context, console: &console }.execute().await,
            _ => Several { vms, names: &names, context, console: &console }.execute().await,
        }
    })
}

/// What all VMs of a command have in common.
#[derive(Clone, Copy)]
struct CommandContext<'c> {
    job: &'c Job,
    args: &'c InterfaceArgs,
    settings: &'c Settings,
    cluster: &'c Cluster,
}

/// The change of one VM.
struct Command<'c> {
    vm: &'c str,
    context: CommandContext<'c>,
    console: &'c Console,
}

/// The result of the change.
enum Outcome {
    /// The VM has the requested state, by this change or already before.
    Done(Box<Done>),
    /// The VM does not have the NIC to remove, and the command succeeds without a change.
    Ignored,
    /// The change was denied, and the reason is printed.
    Denied,
}

/// A VM that has the requested state.
struct Done {
    edit: Box<Edit>,
    /// The VM that was read.
    before: Value,
    /// The VM after the change.
    vm: Value,
}

/// The result of the check of a change.
enum Checked {
    Edit(Box<Edit>),
    /// As [`Outcome::Ignored`].
    Ignored,
    /// As [`Outcome::Denied`].
    Denied,
}

impl Command<'_> {
    async fn execute(&self) -> anyhow::Result<ExitCode> {
        self.console.begin_progress("Reading the VM and the cluster");
        let outcome = self.change(None).await;
        self.console.end_progress();
        let done = match outcome? {
            Outcome::Done(done) => done,
            Outcome::Ignored => return Ok(ExitCode::SUCCESS),
            Outcome::Denied => return Ok(ExitCode::FAILURE),
        };
        self.print_result(&done)?;
        if self.context.args.dry_run != DryRun::None {
            return Ok(ExitCode::SUCCESS);
        }
        self.print_forecast(&done.edit).await?;
        if done.edit.is_needed() {
            undo::print(self.context, self.console, &[(self.vm, &done.before)])?;
        }
        self.follow(&done.edit, self.timeout()).await
    }

    fn timeout(&self) -> Option<Duration> {
        let migration = self.context.args.migrate.then_some(MIGRATION_TIMEOUT);
        self.context.args.wait.map(|HumanDuration(timeout)| timeout).or(migration)
    }

    /// Follows the NIC, if there is a time for it and the VM runs.
    async fn follow(&self, edit: &Edit, timeout: Option<Duration>) -> anyhow::Result<ExitCode> {
        match (timeout, &edit.running) {
            (Some(timeout), Fact::Known(())) => self.follower(edit).follow(timeout).await,
            (Some(_), Fact::Unknown) => {
                self.console.error("cannot follow the NIC: it is unknown whether the VM runs")?;
                Ok(ExitCode::from(2))
            }
            (Some(_), Fact::Absent) | (None, _) => Ok(ExitCode::SUCCESS),
        }
    }

    fn follower<'f>(&'f self, edit: &'f Edit) -> Follower<'f> {
        let request = self.request();
        let direction = match request {
            EditRequest::Add(_) => Direction::Attach,
            EditRequest::Remove(_) => Direction::Detach,
        };
        let target = Target { vm: self.vm.to_owned(), nic: request.nic().to_owned(), direction };
        Follower {
            cluster: self.context.cluster,
            console: self.console,
            target,
            cluster_info: &edit.cluster_info,
            migrates: self.context.args.migrate,
        }
    }

    fn request(&self) -> &EditRequest {
        &self.context.job.request
    }

    /// Makes the change; again if another client has changed the VM meanwhile. The first attempt sends a change that is
    /// already checked, if there is one.
    async fn change(&self, mut checked: Option<(Value, Box<Edit>)>) -> anyhow::Result<Outcome> {
        let dry_run = self.context.args.dry_run;
        for _ in 0..ATTEMPTS {
            let (before, edit) = if let Some(checked) = checked.take() {
                checked
            } else {
                let Some(vm) = self.read_vm().await? else { return Err(self.not_found().await) };
                match self.check(&vm).await? {
                    Checked::Edit(edit) => (vm, edit),
                    Checked::Ignored => return Ok(Outcome::Ignored),
                    Checked::Denied => return Ok(Outcome::Denied),
                }
            };
            if !self.may_proceed(&edit).await? {
                return Ok(Outcome::Denied);
            }
            if !edit.is_needed() || dry_run == DryRun::Client {
                let vm = edit.object.clone();
                return Ok(Outcome::Done(Box::new(Done { edit, before, vm })));
            }
            let cluster = self.context.cluster;
            match write::write(cluster, self.vm, &edit.patch, dry_run == DryRun::Server).await? {
                WriteResult::Conflict => {}
                WriteResult::Stored(vm) => return Ok(Outcome::Done(Box::new(Done { edit, before, vm }))),
                WriteResult::Denied(message) => {
                    self.console.error(&message)?;
                    return Ok(Outcome::Denied);
                }
            }
        }
        bail!("another client changed {:?} during each of {ATTEMPTS} attempts: run the command again", self.vm);
    }

    async fn read_vm(&self) -> anyhow::Result<Option<Value>> {
        let vms: Api<DynamicObject> = api(self.context.cluster, Kind::Vm);
        match vms.get_opt(self.vm).await {
            Ok(vm) => Ok(vm.map(serde_json::to_value).transpose()?),
            Err(error) => Err(explain(&error).context(format!("VirtualMachine {:?} cannot be read", self.vm))),
        }
    }

    /// Checks the change, and prints its verdict.
    async fn check(&self, vm: &Value) -> anyhow::Result<Checked> {
        let CommandContext { args, settings, cluster, .. } = self.context;
        let mut plan = FetchPlan::about(&cluster.namespace, self.vm);
        if let EditRequest::Add(nic) = self.request() {
            plan = plan.with_network(&nic.network_name);
        }
        let fetched = fetch_facts(&cluster.client, &plan, cluster.timeout(FACTS_TIMEOUT)).await;
        let facts: Arc<dyn FactSource> = Arc::new(fetched.store);
        match edit::edit(vm, self.request(), &facts, settings, args.dry_run == DryRun::Server) {
            Ok(edit) => {
                self.print_verdict(&edit, &fetched.errors)?;
                let is_allowed = edit.verdict.causes.is_empty();
                Ok(if is_allowed { Checked::Edit(Box::new(edit)) } else { Checked::Denied })
            }
            Err(error @ EditError::Unreadable(_)) => Err(error.into()),
            Err(EditError::NotFound(why)) if self.context.job.ignores_missing => {
                self.console.info(&format!("{why}: nothing to do"))?;
                Ok(Checked::Ignored)
            }
            Err(EditError::NotFound(why)) => {
                self.console.error(&format!("Error (NotFound): {why}"))?;
                Ok(Checked::Denied)
            }
            Err(EditError::Malformed(why) | EditError::NameInUse(why)) => {
                self.console.error(&why)?;
                Ok(Checked::Denied)
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
        let CommandContext { args, cluster, .. } = self.context;
        if self.console.is_of_several() || !args.migrate || !forecast::waits_for_manual_migration(edit) {
            return Ok(true);
        }
        may_migrate(cluster, self.console).await
    }

    fn print_result(&self, done: &Done) -> anyhow::Result<()> {
        let Done { edit, vm, .. } = done;
        match self.context.args.output {
            Some(format) => format.print(&[self.vm], || without_managers(vm))?,
            None => self.console.info(&format!("{} {}", resource_name(self.vm), self.verb(edit)))?,
        }
        if !edit.is_needed() {
            self.console.info(&self.unchanged())?;
        }
        Ok(())
    }

    /// Returns what became of the VM, as kubectl prints it.
    fn verb(&self, edit: &Edit) -> String {
        let verb = if edit.is_needed() { "patched" } else { "unchanged" };
        let mode = match self.context.args.dry_run {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        };
        format!("{verb}{mode}")
    }

    /// Returns why the VM needs no change.
    fn unchanged(&self) -> String {
        let (vm, nic) = (self.vm, self.request().nic());
        match self.request() {
            EditRequest::Add(_) => format!("{nic:?} already exists"),
            EditRequest::Remove(_) => {
                format!("{nic:?} is already being unplugged; `{} why {vm} {nic}` shows what it waits for", program())
            }
        }
    }

    /// Prints how KubeVirt will plug or unplug the NIC.
    async fn print_forecast(&self, edit: &Edit) -> anyhow::Result<()> {
        let CommandContext { job, args, cluster, .. } = self.context;
        let text = forecast::sentence(self.vm, &job.request, edit, args.migrate);
        let Some(text) = text else { return Ok(()) };
        self.console.info(&text)?;
        if forecast::needs_hint(&job.request, edit, args.migrate) {
            self.console.verbatim(&migration::create_command(&cluster.groups, &cluster.namespace, self.vm)?)?;
            if migration::may_start(cluster).await == Some(false) {
                self.console.verbatim(&migration::how_to_grant(cluster).await)?;
            }
        }
        Ok(())
    }

    async fn not_found(&self) -> anyhow::Error {
        not_found::error(self.context.cluster, self.vm, self.request()).await
    }
}

/// Whether the user can start a migration, as far as is known; prints what to do if not.
async fn may_migrate(cluster: &Cluster, console: &Console) -> anyhow::Result<bool> {
    if migration::may_start(cluster).await != Some(false) {
        return Ok(true);
    }
    console.error("nothing was changed: you have no permission to create the migration that --migrate starts")?;
    console.verbatim(&migration::how_to_grant(cluster).await)?;
    Ok(false)
}

/// Returns a VM as kubectl names it.
fn resource_name(vm: &str) -> String {
    format!("virtualmachine.kubevirt.io/{vm}")
}

/// Returns the object as kubectl prints it, without the long list of field managers.
fn without_managers(vm: &Value) -> Value {
    let mut vm = vm.clone();
    if let Some(metadata) = vm.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    vm
}

/// Returns the client for a kind in the namespace of the command.
fn api(cluster: &Cluster, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource(kind))
}

pub(super) fn resource(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(kind.group(), kind.version(), kind.kind());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

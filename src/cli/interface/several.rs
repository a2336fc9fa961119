//! The change of several VMs: a table of what will happen, one question, the changes, and a summary.

use std::{fmt::Write, process::ExitCode, sync::Arc};

use anyhow::bail;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    Command, CommandContext, Console, Done, DryRun, MIGRATION_TIMEOUT, Outcome, VmArgs, forecast, may_migrate,
    resource_name, undo, without_managers,
};
use crate::{
    cli::{
        check::count,
        guests::{self, FoundGuests, Guest, Selection},
        terminal::Colour,
    },
    facts::FactSource,
    hotplug::edit::{self, Edit, EditError, EditRequest},
};

/// The number of NICs that are followed at the same time, unless `--max-migrations` is set.
const FOLLOWED: usize = 8;

/// The longest name that sets the width of its column.
const LONGEST_NAME: usize = 40;

/// A command about several VMs.
pub(super) struct Several<'c> {
    pub(super) vms: &'c VmArgs,
    pub(super) names: &'c [&'c str],
    pub(super) context: CommandContext<'c>,
    pub(super) console: &'c Console,
}

/// A VM, and what will happen to it.
struct Row {
    name: String,
    state: State,
}

/// What will happen to a VM.
enum State {
    /// The VM as it was read, and its change.
    Change(Value, Box<Edit>),
    /// It has the requested state already.
    Unchanged(String, Option<(Value, Box<Edit>)>),
    /// The rules deny the change, or it is impossible.
    Refused(Vec<String>),
    /// It cannot be judged.
    Failed(String),
}

/// What became of a VM.
struct Result {
    name: String,
    end: End,
    /// The VM before and after a change.
    objects: Option<(Value, Value)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Changed,
    Unchanged,
    Refused,
    /// It was changed, and the NIC has not arrived.
    Late,
    Failed,
}

impl End {
    const ALL: [Self; 5] = [Self::Changed, Self::Unchanged, Self::Refused, Self::Late, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Late => "changed, but the NIC has not arrived",
            Self::Failed => "failed",
        }
    }
}

impl Several<'_> {
    pub(super) async fn execute(&self) -> anyhow::Result<ExitCode> {
        let rows = self.read().await?;
        self.print_table(&rows)?;
        let changes: Vec<&Edit> = rows.iter().filter_map(Row::change).collect();
        let dry_run = self.context.args.dry_run;
        if !changes.is_empty() && dry_run == DryRun::None {
            let needs_migration = changes.iter().any(|edit| forecast::waits_for_manual_migration(edit));
            if self.context.args.migrate && needs_migration && !may_migrate(self.context.cluster, self.console).await? {
                return Ok(ExitCode::FAILURE);
            }
            let question = format!("Change {}?", count(changes.len(), "VM"));
            if !self.vms.yes && !self.console.confirms(&question)? {
                self.console.error("nothing was changed")?;
                return Ok(ExitCode::FAILURE);
            }
        }
        let results = self.change_all(rows).await?;
        self.print_objects(&results)?;
        self.print_summary(&results)?;
        Ok(exit_code(&results))
    }

    // === The table ===

    async fn read(&self) -> anyhow::Result<Vec<Row>> {
        let CommandContext { job, cluster, .. } = self.context;
        let selector = self.vms.selector.as_deref();
        let selection = match selector {
            Some(_) => Selection::Namespace,
            None => Selection::Each(self.names.iter().map(ToString::to_string).collect()),
        };
        let networks: Vec<String> = match &job.request {
            EditRequest::Add(nic) => vec![nic.network_name.clone()],
            EditRequest::Remove(_) => Vec::new(),
        };
        let FoundGuests { list, missing, store, unread, .. } =
            guests::read(cluster, &selection, selector, &networks).await?;
        for note in unread.notes() {
            self.console.note(&note)?;
        }
        if let (Some(labels), true) = (selector, list.is_empty()) {
            bail!("no VM in namespace {:?} has the labels {labels:?}", cluster.namespace);
        }
        let facts: Arc<dyn FactSource> = Arc::new(store);
        let mut rows: Vec<Row> = list.into_iter().map(|guest| self.row(guest, &facts)).collect();
        rows.extend(missing.into_iter().map(|(name, why)| Row { name, state: State::Failed(why) }));
        let position = |row: &Row| self.names.iter().position(|name| *name == row.name);
        rows.sort_by_key(position);
        Ok(rows)
    }

    fn row(&self, guest: Guest, facts: &Arc<dyn FactSource>) -> Row {
        let CommandContext { job, args, settings, .. } = self.context;
        let Guest { name, vm, .. } = guest;
        let Some(vm) = vm else {
            let why = "it is a VirtualMachineInstance without a VirtualMachine, whose NICs KubeVirt does not change";
            return Row { name, state: State::Failed(why.to_owned()) };
        };
        let state = match edit::edit(&vm, &job.request, facts, settings, args.dry_run == DryRun::Server) {
            Ok(edit) if !edit.verdict.causes.is_empty() => State::Refused(edit.verdict.causes),
            Ok(edit) if edit.is_needed() => State::Change(vm, Box::new(edit)),
            Ok(edit) => {
                let why = match job.request {
                    EditRequest::Add(_) => "it has the NIC already",
                    EditRequest::Remove(_) => "the NIC is already being unplugged",
                };
                State::Unchanged(why.to_owned(), Some((vm, Box::new(edit))))
            }
            Err(EditError::NotFound(why)) if job.ignores_missing => State::Unchanged(why, None),
            Err(EditError::NotFound(why) | EditError::Malformed(why) | EditError::NameInUse(why)) => {
                State::Refused(vec![why])
            }
            Err(error @ EditError::Unreadable(_)) => State::Failed(error.to_string()),
        };
        Row { name, state }
    }

    fn print_table(&self, rows: &[Row]) -> anyhow::Result<()> {
        let CommandContext { job, args, cluster, .. } = self.context;
        let what = match &job.request {
            EditRequest::Add(nic) => format!("Add NIC {:?} on network {:?} to", nic.name, nic.network_name),
            EditRequest::Remove(name) => format!("Remove NIC {name:?} from"),
        };
        let place = format!("{} of namespace {:?}", count(rows.len(), "VM"), cluster.namespace);
        self.console.info(&format!("{what} {place}:"))?;
        let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        let width = longest.min(LONGEST_NAME);
        for row in rows {
            let (colour, text) = row.text(&job.request, args.migrate);
            let head = format!("  {:width$}  ", row.name);
            self.console.row(colour, &head, width + 4, &text)?;
            for warning in row.change().iter().flat_map(|edit| &edit.verdict.warnings) {
                let head = format!("  {:width$}  warning: ", "");
                self.console.row(Some(Colour::Yellow), &head, width + 6, warning)?;
            }
        }
        Ok(())
    }

    // === The changes ===

    /// Changes the VMs, first those that need no migration. An error of one VM does not end the command.
    async fn change_all(&self, rows: Vec<Row>) -> anyhow::Result<Vec<Result>> {
        let CommandContext { job, args, .. } = self.context;
        let total = rows.len();
        let is_paced = |row: &Row| {
            let edit = row.edit();
            edit.is_some_and(|edit| forecast::may_migrate(&job.request, edit, args.migrate))
        };
        let order: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let (paced, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_paced);
        let is_following = args.wait.is_some() || args.migrate;
        // Without following them, one request follows the other.
        let at_once = if is_following { FOLLOWED } else { 1 };
        let at_most = args.max_migrations.map_or(at_once, usize::from);
        let mut results: Vec<Result> = Vec::new();
        self.console.begin_progress(&format!("0 of {total} VMs"));
        for (rows, limit, is_paced) in [(others, at_once, false), (paced, at_most, true)] {
            let mut running = stream::iter(rows).map(|row| self.change_one(row, is_paced)).buffer_unordered(limit);
            while let Some(result) = running.next().await {
                results.push(result?);
                self.console.set_progress(&format!("{} of {total} VMs", results.len()));
            }
        }
        self.console.end_progress();
        results.sort_by_key(|result| order.iter().position(|name| *name == result.name));
        Ok(results)
    }

    /// Changes one VM. Only an error of the output is an error.
    async fn change_one(&self, row: Row, is_paced: bool) -> anyhow::Result<Result> {
        let Row { name, state } = row;
        let console = self.console.of_vm(&name);
        let (end, objects) = match state {
            State::Refused(_) => (End::Refused, None),
            State::Failed(_) => (End::Failed, None),
            State::Unchanged(_, None) => (End::Unchanged, None),
            State::Change(vm, edit) | State::Unchanged(_, Some((vm, edit))) => {
                let command = Command { vm: &name, context: self.context, console: &console };
                match self.apply(&command, vm, edit, is_paced).await {
                    Ok(done) => done,
                    Err(error) => {
                        console.error(&format!("{error:#}"))?;
                        (End::Failed, None)
                    }
                }
            }
        };
        Ok(Result { name, end, objects })
    }

    async fn apply(
        &self,
        command: &Command<'_>,
        vm: Value,
        edit: Box<Edit>,
        is_paced: bool,
    ) -> anyhow::Result<(End, Option<(Value, Value)>)> {
        let args = self.context.args;
        let done = match command.change(Some((vm, edit))).await? {
            Outcome::Done(done) => done,
            Outcome::Ignored => return Ok((End::Unchanged, None)),
            Outcome::Denied => return Ok((End::Refused, None)),
        };
        let Done { edit, before, vm } = *done;
        let is_changed = edit.is_needed();
        if is_changed {
            let resource = resource_name(command.vm);
            self.console.info(&format!("{resource} {}", command.verb(&edit)))?;
        }
        let objects = is_changed.then_some((before, vm));
        if args.dry_run != DryRun::None {
            return Ok((if is_changed { End::Changed } else { End::Unchanged }, objects));
        }
        // The pace is that of the migrations, which end when the NIC has arrived.
        let pace = (is_paced && is_changed && args.max_migrations.is_some()).then_some(MIGRATION_TIMEOUT);
        let pace = pace.filter(|_| args.migrate || !forecast::needs_manual_migration(&edit));
        let followed = command.follow(&edit, command.timeout().or(pace)).await?;
        let end = match followed {
            code if code == ExitCode::SUCCESS && is_changed => End::Changed,
            code if code == ExitCode::SUCCESS => End::Unchanged,
            code if code == ExitCode::FAILURE => End::Late,
            _ => End::Failed,
        };
        Ok((end, objects))
    }

    // === The end ===

    fn print_objects(&self, results: &[Result]) -> anyhow::Result<()> {
        let Some(format) = self.context.args.output else { return Ok(()) };
        let changed = results.iter().filter_map(|result| Some((result.name.as_str(), &result.objects.as_ref()?.1)));
        let (names, vms): (Vec<&str>, Vec<&Value>) = changed.unzip();
        let items = || vms.into_iter().map(without_managers).collect::<Vec<_>>();
        format.print(&names, || json!({"apiVersion": "v1", "kind": "List", "items": items()}))
    }

    fn print_summary(&self, results: &[Result]) -> anyhow::Result<()> {
        self.console.info(&summary(results, self.context.args.dry_run != DryRun::None))?;
        let changed: Vec<(&str, &Value)> = results
            .iter()
            .filter_map(|result| result.objects.as_ref().map(|(before, _)| (result.name.as_str(), before)))
            .collect();
        if self.context.args.dry_run == DryRun::None {
            undo::print(self.context, self.console, &changed)?;
        }
        Ok(())
    }
}

impl Row {
    fn change(&self) -> Option<&Edit> {
        match &self.state {
            State::Change(_, edit) => Some(edit),
            _ => None,
        }
    }

    fn edit(&self) -> Option<&Edit> {
        match &self.state {
            State::Change(_, edit) | State::Unchanged(_, Some((_, edit))) => Some(edit),
            _ => None,
        }
    }

    /// Returns what will happen, and its colour.
    fn text(&self, request: &EditRequest, migrates: bool) -> (Option<Colour>, String) {
        match &self.state {
            State::Change(_, edit) => (Some(Colour::Green), forecast::how(request, edit, migrates)),
            State::Unchanged(why, _) => (Some(Colour::Dim), format!("no change: {why}")),
            State::Refused(causes) => (Some(Colour::Red), format!("refused: {}", causes.join("; "))),
            State::Failed(why) => (Some(Colour::Red), format!("not judged: {why}")),
        }
    }
}

/// Returns how many VMs came to which end, and the names of those that need attention.
fn summary(results: &[Result], is_dry_run: bool) -> String {
    let mut parts = Vec::new();
    for end in End::ALL {
        let names: Vec<&str> =
            results.iter().filter(|result| result.end == end).map(|result| result.name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let mut part = format!("{} {}", names.len(), end.as_str());
        if matches!(end, End::Refused | End::Late | End::Failed) {
            // Writing to a string cannot fail.
            let _ = write!(part, " ({})", names.join(", "));
        }
        parts.push(part);
    }
    let mode = if is_dry_run { " (dry run)" } else { "" };
    format!("{}{mode}: {}", count(results.len(), "VM"), parts.join(", "))
}

/// Returns 2 if a VM could not be judged or changed, else 1 if a change was denied or a NIC has not arrived.
fn exit_code(results: &[Result]) -> ExitCode {
    let has = |ends: &[End]| results.iter().any(|result| ends.contains(&result.end));
    ExitCode::from(if has(&[End::Failed]) { 2 } else { u8::from(has(&[End::Refused, End::Late])) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(ends: &[End]) -> Vec<Result> {
        let result = |(number, end): (usize, &End)| Result { name: format!("vm{number}"), end: *end, objects: None };
        ends.iter().enumerate().map(result).collect()
    }

    #[test]
    fn the_summary_counts_and_names_what_needs_attention_and_the_exit_status_is_the_worst() {
        for (ends, text, code) in [
            (&[End::Changed, End::Unchanged, End::Changed][..], "3 VMs: 2 changed, 1 unchanged", 0),
            (&[End::Changed, End::Refused], "2 VMs: 1 changed, 1 refused (vm1)", 1),
            (&[End::Late], "1 VM: 1 changed, but the NIC has not arrived (vm0)", 1),
            (&[End::Failed, End::Refused, End::Failed], "3 VMs: 1 refused (vm1), 2 failed (vm0, vm2)", 2),
        ] {
            let results = results(ends);
            assert_eq!(summary(&results, false), text);
            assert_eq!(exit_code(&results), ExitCode::from(code), "{text}");
        }
        assert_eq!(summary(&results(&[End::Changed]), true), "1 VM (dry run): 1 changed");
    }
}

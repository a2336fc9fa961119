//! `nicplug demo`: reviews a series of changes over real TLS, without a cluster.

mod arrival;
mod client;
mod print;
mod steps;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;
use tokio::{signal, sync::oneshot};

use self::{
    client::Client,
    print::Printer,
    steps::{Expect, Step},
};
use crate::{
    admission::Reviewer,
    certificates::{self, Host},
    change::{Change, NetworkChange},
    cluster::store::Store,
    facts::{FactSource, Facts},
    server::{Config, Server, tls::CertKeyPair},
    settings::Settings,
};

/// Show in a minute what nicplug does, with a real server on this machine and without a cluster.
///
/// Creates certificates in memory, starts the server on a free loopback port with the objects of a small example
/// cluster, and sends it one change after another. Prints the change, the patch, and the result like kubectl.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Show every rule: about forty changes.
    #[arg(long)]
    all: bool,

    /// Keep the server running after the last step, and print curl commands for it.
    #[arg(long)]
    curl: bool,

    /// Exit after the last step, which is the default.
    #[arg(long, conflicts_with = "curl")]
    once: bool,
}

impl DemoArgs {
    /// Runs the steps; fails if the result of a step is not the expected one.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(run(&self))?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let bundle = certificates::generate(&Host::local()?, SystemTime::now())?;
    let facts = CurrentFacts::default();
    let config = Config::new(CertKeyPair::try_from(&bundle)?.into());
    let server = Server::bind(config, Reviewer::new(Arc::new(facts.clone()), Settings::default())).await?;
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let (force, forced) = oneshot::channel::<()>();
    let ended = |signal: oneshot::Receiver<()>| async {
        let _ = signal.await;
    };
    let running = tokio::spawn(server.run_until(ended(stopped), ended(forced)));

    let printer = Printer::for_stdout();
    let client = Client::new(address, &bundle.ca)?;
    print(&printer.introduction(&address))?;
    let mut steps = steps::beats()?;
    if args.all {
        steps.extend(steps::steps()?);
    }
    let mut number = 0;
    for step in &steps {
        number += usize::from(!step.title.is_empty());
        run_step(number, step, &facts, &client, &printer).await?;
    }
    let reviewed = steps.iter().filter(|step| !step.unreviewed).count();
    print(&printer.end(reviewed, args.all || args.curl))?;
    if args.curl {
        let example = steps::example()?;
        facts.set(example.cluster()?);
        print(&Printer::curl_lines(&address, &steps::review(&example)?))?;
        signal::ctrl_c().await.context("cannot receive signals")?;
    }
    // Only this program is connected, so the server can end at once.
    drop((stop, force));
    running.await.context("the server task failed")
}

async fn run_step(
    number: usize,
    step: &Step,
    facts: &CurrentFacts,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<()> {
    let explain = || format!("step {number}, {:?}", step.title);
    facts.set(step.cluster().with_context(explain)?);
    print(&printer.step(number, step))?;
    if step.unreviewed {
        return Ok(print(&printer.unreviewed(step))?);
    }
    let mut review = steps::review(step).with_context(explain)?;
    let mutated = client.post("/mutate", &review).await.with_context(explain)?;
    let patch = steps::apply_patch(&mut review, &mutated).with_context(explain)?;
    let verdict = client.post("/validate", &review).await.with_context(explain)?;
    print(&printer.verdict(step, &verdict, patch.as_ref()))?;
    let is_allowed = verdict.pointer("/response/allowed").and_then(Value::as_bool) == Some(true);
    let found = match (is_allowed, &patch) {
        (false, _) => Expect::Denied,
        (true, Some(_)) => Expect::Patched,
        (true, None) => Expect::Allowed,
    };
    ensure!(
        found == step.expect,
        "{}: expected {:?}, the server answered {found:?}: {verdict}",
        explain(),
        step.expect
    );
    if !step.arrives.is_empty() {
        follow(step, printer).await.with_context(explain)?;
    }
    Ok(())
}

/// Prints the way of a NIC into the guest; on a terminal at its pace.
async fn follow(step: &Step, printer: &Printer) -> anyhow::Result<()> {
    let is_terminal = io::stdout().is_terminal();
    for moment in arrival::moments(step)? {
        if is_terminal {
            tokio::time::sleep(moment.pause).await;
        }
        print(&printer.arrival(&moment.lines))?;
    }
    Ok(())
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The facts of the current step.
#[derive(Clone, Default)]
struct CurrentFacts(Arc<Mutex<Store>>);

impl CurrentFacts {
    fn set(&self, store: Store) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }
}

impl FactSource for CurrentFacts {
    fn facts_for(&self, change: &Change) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).facts_for(change)
    }

    fn facts_for_network(&self, change: &NetworkChange) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).facts_for_network(change)
    }
}

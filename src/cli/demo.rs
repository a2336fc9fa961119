//! `nicplug demo`: reviews a series of changes over real TLS, without a cluster.

mod client;
mod print;
mod steps;

use std::{
    io::{self, Write},
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

/// Show what nicplug allows and denies, with a real server on this machine and without a cluster.
///
/// Creates certificates in memory, starts the server on a free loopback port with the objects of a small example
/// cluster, and sends it one change after another. Prints the YAML, the patch, and the result like kubectl.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Exit after the last step. Without this flag the server keeps running, and the demo prints curl commands for it.
    #[arg(long)]
    once: bool,
}

impl DemoArgs {
    /// Runs all steps; fails if the result of a step is not the expected one.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(run(self.once))?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn run(once: bool) -> anyhow::Result<()> {
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
    print(&Printer::introduction(&address))?;
    let steps = steps::steps()?;
    for (number, step) in steps.iter().enumerate() {
        run_step(number + 1, step, &facts, &client, &printer).await?;
    }
    print(&printer.end(steps.len()))?;
    if !once {
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

//! `nicplug demo`: the whole story on one machine, over real TLS, without a cluster.

mod client;
mod print;
mod story;

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
    story::{Expect, Step},
};
use crate::{
    admission::Reviewer,
    certificates::{self, Host},
    change::Change,
    cluster::store::Store,
    facts::{FactSource, Facts},
    server::{Config, Server, tls::Pair},
    settings::Settings,
};

/// Play the whole hotplug story against a real server on this machine; needs no cluster.
///
/// Makes certificates in memory, starts the server on a free loopback port with the facts of a small example cluster,
/// and applies one change after another: the YAML, the verdict as kubectl prints it, and the patch.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// End after the story. Without it the server stays up, and ready curl lines are printed.
    #[arg(long)]
    once: bool,
}

impl DemoArgs {
    /// Plays the story; fails where the server answers something else than the story says.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        runtime.block_on(play(self.once))?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn play(once: bool) -> anyhow::Result<()> {
    let bundle = certificates::generate(&Host::local()?, SystemTime::now())?;
    let stage = Stage::default();
    let config = Config::new(Pair::try_from(&bundle)?.into());
    let server = Server::bind(config, Reviewer::new(Arc::new(stage.clone()), Settings::default())).await?;
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let (hurry, hurried) = oneshot::channel::<()>();
    let ended = |signal: oneshot::Receiver<()>| async {
        let _ = signal.await;
    };
    let running = tokio::spawn(server.run_until(ended(stopped), ended(hurried)));

    let printer = Printer::for_stdout();
    let client = Client::new(address, &bundle.ca)?;
    tell(&Printer::introduction(&address))?;
    let steps = story::steps()?;
    for (number, step) in steps.iter().enumerate() {
        play_step(number + 1, step, &stage, &client, &printer).await?;
    }
    tell(&printer.end(steps.len()))?;
    if !once {
        let example = story::example()?;
        stage.set(example.cluster()?);
        tell(&Printer::curl_lines(&address, &story::review(&example)?))?;
        signal::ctrl_c().await.context("cannot receive signals")?;
    }
    // Nobody but this program is connected: there is nothing to wait for.
    drop((stop, hurry));
    running.await.context("the server ended in an unexpected way")
}

async fn play_step(
    number: usize,
    step: &Step,
    stage: &Stage,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<()> {
    let explain = || format!("step {number}, {:?}", step.title);
    stage.set(step.cluster().with_context(explain)?);
    tell(&printer.step(number, step))?;
    let mut review = story::review(step).with_context(explain)?;
    let mutated = client.post("/mutate", &review).await.with_context(explain)?;
    let patch = story::apply_patch(&mut review, &mutated).with_context(explain)?;
    let verdict = client.post("/validate", &review).await.with_context(explain)?;
    tell(&printer.verdict(step, &verdict, patch.as_ref()))?;
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

fn tell(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The cluster of the step that is being played.
#[derive(Clone, Default)]
struct Stage(Arc<Mutex<Store>>);

impl Stage {
    fn set(&self, store: Store) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }
}

impl FactSource for Stage {
    fn facts_for(&self, change: &Change) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).facts_for(change)
    }
}

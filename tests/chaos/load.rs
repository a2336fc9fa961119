//! Clients that send requests all the time, and the comparison of each answer with its replays.

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::Client;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    history::History,
    replay::{Agreement, Disturbance, Outcome, Replay},
    request::Request,
};
use crate::{Fault, support::api_server::requests::Response, until};

const CLIENTS: usize = 4;

/// How many answers come between two changes of the facts, at most.
const CHANGE_AFTER: usize = 24;

/// An answer, and when its request was sent and answered.
struct Answer {
    request: Request,
    response: Response,
    sent: Instant,
    answered: Instant,
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) answers: usize,
    pub(crate) denied: usize,
    pub(crate) warned: usize,
    pub(crate) patched: usize,
    /// Answers by the facts of that time.
    pub(crate) current: usize,
    /// Those of them that other facts would change.
    pub(crate) depending: usize,
    /// Answers by facts of a moment before.
    pub(crate) lagging: usize,
    pub(crate) longest_lag: Duration,
    /// The longest lag while the API server was not disturbed.
    pub(crate) longest_lag_undisturbed: Duration,
    /// Answers without some facts.
    pub(crate) unknown: usize,
    /// Answers to which a webhook whose failure is ignored contributed nothing.
    pub(crate) ignored: usize,
    /// How often each error occurred.
    pub(crate) failures: BTreeMap<String, usize>,
    pub(crate) wrong: Vec<String>,
    /// Of the last answer by the facts of that time that other facts would change: when it was sent.
    last_depending: Option<Instant>,
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, denied, warned, patched, current, depending, lagging, unknown, ignored, .. } = self;
        writeln!(formatter, "{answers} answers: {denied} denied, {warned} with warnings, {patched} with a patch")?;
        writeln!(formatter, "  {current} by the facts of their time, {depending} of which other facts would change")?;
        let (longest, undisturbed) = (self.longest_lag, self.longest_lag_undisturbed);
        writeln!(formatter, "  {lagging} by facts of at most {longest:.1?} before, {undisturbed:.1?} if undisturbed")?;
        writeln!(formatter, "  {unknown} without facts that could not be read")?;
        writeln!(formatter, "  {ignored} without a webhook whose failure is ignored")?;
        writeln!(formatter, "  {} wrong", self.wrong.len())?;
        write!(formatter, "{} requests failed:", self.failures.values().sum::<usize>())?;
        self.failures.iter().try_for_each(|(reason, count)| write!(formatter, "\n  {count} {reason}"))
    }
}

/// The clients, and what they have seen.
pub(crate) struct Load {
    pub(crate) history: History,
    replay: Replay,
    admin: Client,
    is_over: AtomicBool,
    /// Whether the API server says that it is ready: a load balancer sends it requests only then.
    pub(crate) is_ready: AtomicBool,
    /// The faults, and when they began and ended.
    faults: Mutex<Vec<(Fault, Instant, Option<Instant>)>>,
    answers: Mutex<Vec<Answer>>,
    counts: Mutex<Counts>,
}

impl Load {
    pub(crate) fn new(history: History, settings: &str, admin: Client) -> Self {
        Self {
            history,
            replay: Replay::new(settings),
            admin,
            is_over: AtomicBool::default(),
            is_ready: AtomicBool::new(true),
            faults: Mutex::default(),
            answers: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Starts the clients, and changes the facts all the time.
    pub(crate) fn begin(self: &Arc<Self>, seed: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let load = Arc::clone(self);
            let mut random = fastrand::Rng::with_seed(seed + number as u64 + 1);
            tasks.spawn(async move {
                while !load.is_over.load(Ordering::Relaxed) {
                    load.send(&mut random).await;
                    load.judge();
                }
            });
        }
        let load = Arc::clone(self);
        let mut random = fastrand::Rng::with_seed(seed);
        tasks.spawn(async move {
            while !load.is_over.load(Ordering::Relaxed) {
                load.wait_for_requests(random.usize(1..CHANGE_AFTER)).await;
                load.history.change(&mut random).await;
            }
        });
        tasks
    }

    /// Ends the clients, and returns what they have seen.
    pub(crate) async fn end(&self, mut tasks: JoinSet<()>) -> Counts {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        self.judge();
        assert!(self.answers.lock().unwrap().is_empty());
        mem::take(&mut *self.counts.lock().unwrap())
    }

    /// Sends one request.
    async fn send(&self, random: &mut fastrand::Rng) {
        if !self.is_ready.load(Ordering::Relaxed) {
            return sleep(Duration::from_millis(20)).await;
        }
        let request = Request::random(&self.history, random);
        let sent = Instant::now();
        match request.send(&self.admin).await {
            Ok(response) if is_failure(&response) => self.fail(response.message()).await,
            Err(error) => self.fail(&error.to_string()).await,
            Ok(response) => {
                let answered = Instant::now();
                self.answers.lock().unwrap().push(Answer { request, response, sent, answered });
            }
        }
    }

    /// Counts a failure. The client tries again a moment later.
    async fn fail(&self, message: &str) {
        // Addresses and names differ.
        let reason = message.rsplit(": ").next().unwrap_or_default().to_owned();
        *self.counts.lock().unwrap().failures.entry(reason).or_default() += 1;
        sleep(Duration::from_millis(20)).await;
    }

    /// Judges the answers of whose time all facts are known.
    fn judge(&self) {
        let is_known = |answer: &mut Answer| self.history.is_known(answer.answered);
        let answers: Vec<Answer> = self.answers.lock().unwrap().extract_if(.., is_known).collect();
        for answer in answers {
            self.judge_one(&answer);
        }
    }

    fn judge_one(&self, Answer { request, response, sent, answered }: &Answer) {
        let outcome = Outcome::of(request, response);
        let disturbance = self.disturbance(*sent, *answered);
        let agreement = self.replay.judge(&self.history, request, (*sent, *answered), &outcome, disturbance);
        let mut counts = self.counts.lock().unwrap();
        counts.answers += 1;
        counts.denied += usize::from(outcome.is_denied());
        counts.warned += usize::from(!outcome.is_denied() && !outcome.warnings.is_empty());
        counts.patched += usize::from(outcome.is_patched(request));
        match agreement {
            Agreement::Current { depends_on_facts } => {
                counts.current += 1;
                if depends_on_facts {
                    counts.depending += 1;
                    counts.last_depending = counts.last_depending.max(Some(*sent));
                }
            }
            Agreement::Lagging(lag, part) => {
                counts.lagging += 1;
                counts.longest_lag = counts.longest_lag.max(lag);
                if disturbance.facts.is_none() {
                    counts.longest_lag_undisturbed = counts.longest_lag_undisturbed.max(lag);
                    if lag > Duration::from_secs(1) {
                        println!("{part:?} is {lag:.1?} behind: {}", self.faults_before(*sent));
                    }
                }
            }
            Agreement::Unknown => counts.unknown += 1,
            Agreement::Ignored => counts.ignored += 1,
            Agreement::Wrong => {
                let expected = self.replay.expected(&self.history, request, *sent, *answered);
                let review = String::from_utf8(request.review(&request.after)).unwrap();
                let expected: Vec<String> = expected.iter().map(Outcome::text).collect();
                counts.wrong.push(format!(
                    "after {:?}, {}\nreview: {review}\nanswer: {}\nreplays: {}",
                    *answered - *sent,
                    self.faults_before(*sent),
                    outcome.text(),
                    expected.join("\n")
                ));
                println!("wrong: {}", counts.wrong.last().unwrap());
            }
        }
    }

    // === Faults ===

    /// Notes that a fault begins.
    pub(crate) fn begin_fault(&self, fault: Fault) {
        self.faults.lock().unwrap().push((fault, Instant::now(), None));
    }

    /// Notes that all is well again.
    pub(crate) fn end_fault(&self) {
        self.faults.lock().unwrap().last_mut().unwrap().2 = Some(Instant::now());
    }

    fn disturbance(&self, sent: Instant, answered: Instant) -> Disturbance {
        let faults = self.faults.lock().unwrap();
        let meanwhile =
            || faults.iter().filter(|(_, begin, end)| *begin <= answered && end.is_none_or(|end| end >= sent));
        Disturbance {
            facts: meanwhile().filter(|(fault, ..)| fault.hides_facts()).map(|(_, begin, _)| *begin).min(),
            calls: meanwhile().any(|(fault, ..)| fault.breaks_calls()),
        }
    }

    /// Returns which faults began in the minute before a time, and when they ended.
    fn faults_before(&self, time: Instant) -> String {
        let faults = self.faults.lock().unwrap();
        let recent = faults.iter().filter(|(_, begin, _)| *begin + Duration::from_mins(1) > time);
        let since = |instant: Instant| time.saturating_duration_since(instant);
        let text = |(fault, begin, end): &(Fault, Instant, Option<Instant>)| {
            format!("{fault:?} {:.2?} before, over since {:.2?}", since(*begin), end.map(since))
        };
        recent.map(text).collect::<Vec<_>>().join("; ")
    }

    /// Waits until the clients have sent this many more requests.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        let sent = || {
            let waiting = self.answers.lock().unwrap().len();
            let counts = self.counts.lock().unwrap();
            counts.answers + waiting + counts.failures.values().sum::<usize>()
        };
        let enough = sent() + count;
        until("more requests are sent", async || {
            (sent() >= enough || self.is_over.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    /// Waits for an answer to a request sent from now on that only the facts of that time give.
    pub(crate) async fn wait_for_current_facts(&self) {
        let begin = Instant::now();
        until("an answer depends on the facts of its time", async || {
            self.counts.lock().unwrap().last_depending.is_some_and(|sent| sent >= begin).then_some(())
        })
        .await;
    }
}

/// Whether the API server could not process a request, or could not call the webhook.
pub(crate) fn is_failure(response: &Response) -> bool {
    let is_busy = [429, 500, 502, 503, 504].contains(&response.code);
    is_busy || response.message().contains("failed calling webhook")
}

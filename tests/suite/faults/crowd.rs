//! Many requests of one session at the same time, as a page with its frames and its scripts sends them, while nodes
//! are killed, hang, and come back empty or with what they had. Each visit counts one up, so that one that overwrote
//! another would be seen by its number.

use super::seconds;
use super::stage::{Plan, Servers, Web};
use harness::{Server, wait_until};
use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SESSIONS: usize = 10;

/// Requests of one session at the same time, each second.
const AT_ONCE: usize = 4;

/// What a visit was answered: its number where it was let in, stored and told nothing else, or all of it.
fn visit(host: &Web, session: usize, more: &str) -> Result<u64, String> {
    let text = host.ask(&format!("id=crowd{session:06}{more}"))?;
    let answer: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
    let well = answer[0] == true && answer[2] == true && answer[3] == serde_json::json!([]);
    answer[1].as_u64().filter(|_| well).ok_or(text)
}

/// All visits of one run.
struct Crowd<'run> {
    host: &'run Web,
    /// Of each visitor; the first [`AT_ONCE`] are of one session.
    visits: Vec<AtomicU64>,
    acknowledged: Vec<Mutex<Vec<u64>>>,
    wrong: Mutex<Vec<String>>,
    ending: AtomicBool,
    begun: Instant,
}

impl Crowd<'_> {
    /// Visits one session each second, at the same moment as its other visitors, until the run ends.
    fn visit_until_the_end(&self, visitor: usize) {
        let session = visitor / AT_ONCE;
        // Not all sessions at the same moment.
        let mut next = self.begun + Duration::from_secs(1) * session as u32 / SESSIONS as u32;
        while !self.ending.load(Ordering::Relaxed) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let begin = self.begun.elapsed();
            match visit(self.host, session, "") {
                Ok(number) => self.acknowledged[session].lock().unwrap().push(number),
                Err(said) => {
                    let (begin, end) = (begin.as_millis(), self.begun.elapsed().as_millis());
                    let story = format!("session {session}, {begin} to {end} ms: {said}");
                    self.wrong.lock().unwrap().push(story);
                }
            }
            self.visits[visitor].fetch_add(1, Ordering::SeqCst);
            next = (next + Duration::from_secs(1)).max(Instant::now());
        }
    }

    /// Waits until each visitor came so many times more.
    fn rounds(&self, count: u64) {
        let counts = || self.visits.iter().map(|done| done.load(Ordering::SeqCst));
        let wanted: Vec<u64> = counts().map(|done| done + count).collect();
        let all = || counts().zip(&wanted).all(|(done, wanted)| done >= *wanted);
        assert!(wait_until(seconds(60.0), all), "visits do not end");
    }

    fn trusted(&self, nodes: &[Server]) {
        self.host.wait_until_all_are_trusted(nodes.len());
    }
}

struct Ends<'run>(&'run AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Each of F1 to F4 once, the next one when the last is mended.
fn faults(crowd: &Crowd<'_>, nodes: &mut [Server]) {
    crowd.rounds(1);
    // F1, and F4.
    nodes[0].kill();
    crowd.rounds(2);
    nodes[0].restart();
    crowd.rounds(1);
    crowd.trusted(nodes);
    // F2, and F3.
    nodes[1].freeze();
    crowd.rounds(2);
    nodes[1].resume();
    crowd.rounds(1);
    crowd.trusted(nodes);
    // Now both must know all that they missed.
    nodes[2].kill();
    crowd.rounds(2);
}

#[track_caller]
fn every_visit_counts(servers: Servers) {
    let plan = Plan {
        workers: SESSIONS * AT_ONCE,
        patient: true,
        ..Plan::new("parallel requests", servers)
    };
    let mut nodes = plan.servers();
    let host = Web::start(&plan, 0, &nodes);
    host.serve(include_str!("crowd.php"));
    let crowd = Crowd {
        host: &host,
        visits: (0..SESSIONS * AT_ONCE).map(|_| AtomicU64::new(0)).collect(),
        acknowledged: (0..SESSIONS).map(|_| Mutex::default()).collect(),
        wrong: Mutex::default(),
        ending: AtomicBool::new(false),
        begun: Instant::now(),
    };
    crowd.trusted(&nodes);
    std::thread::scope(|scope| {
        // A script that fails must end the visits, too, or the scope waits for ever.
        let _guard = Ends(&crowd.ending);
        for visitor in 0..SESSIONS * AT_ONCE {
            let crowd = &crowd;
            scope.spawn(move || crowd.visit_until_the_end(visitor));
        }
        faults(&crowd, &mut nodes);
    });
    let took = crowd.begun.elapsed();
    let wrong = crowd.wrong.into_inner().unwrap();
    let log = host.tend_log();
    assert!(wrong.is_empty(), "{}\n{log}", wrong.join("\n"));
    let mut all = 0;
    for (session, acknowledged) in crowd.acknowledged.into_iter().enumerate() {
        let mut numbers = acknowledged.into_inner().unwrap();
        numbers.sort_unstable();
        let count = numbers.len() as u64;
        // Distinct, and none is missing.
        let expected: Vec<u64> = (1..=count).collect();
        assert_eq!(numbers, expected, "session {session}\n{log}");
        assert_eq!(
            visit(&host, session, "&look"),
            Ok(count),
            "session {session}"
        );
        all += count;
    }
    println!("parallel requests · {servers:?} · {SESSIONS} sessions · {all} visits in {took:.1?}");
}

#[test]
fn parallel_requests_of_one_session_count_each_visit_while_nodes_come_and_go() {
    Servers::all().into_iter().for_each(every_visit_counts);
}

#[test]
fn parallel_requests_of_one_session_count_each_visit_on_redis_too() {
    every_visit_counts(Servers::Redis(None));
}

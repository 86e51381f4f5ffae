//! memring commit POOL: the end of a step from one node list to the next.
//!
//! Every key whose nodes changed is brought to its new ones; then the records say that the
//! list before is over. Stopped halfway it has done no harm, and is begun anew.

use crate::host::{Host, name};
use crate::wish::{Asked, Kept, which_pools};
use crate::{Stop, say, tell, words};
use memring_pool::pool::commit::{Committed, Committer, Progress};
use memring_pool::shared;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What --help prints.
pub(crate) const HELP: &str = concat!(
    "\
memring commit [--config FILE] [--lease SECONDS] POOL…

Ends the step to the nodes that the file has now: brings every key whose nodes changed to its new ones, and
says in the records of all nodes that the epoch is committed. Run it once, on any host, after the new file is
on all hosts. A host that still has the old one opens no session from then on until it gets the new one; none is lost.
Every node must answer; one that goes away may be silent where there were three or more.

Requests that work with a session that moves are waited for; of one that was killed the turn is taken in the end.

",
    which_pools!(),
    "
  --lease SECONDS     so long a request may have a session and not write it, 300 unless said otherwise, 30 at
                      least; then its turn is taken, and should it still run, its changes are refused. Write more where
                      memcache.lock_timeout is longer

Exit code 0 when the epoch is committed, 1 when not."
);

/// How often the progress is said.
const NEWS: Duration = Duration::from_secs(1);
/// The same while nothing is done but waiting.
const WAITING: Duration = Duration::from_secs(10);
/// Tries while records change, a node is silent, or single keys cannot be brought over.
const TRIES: u32 = 6;
/// The pause before the second one; it doubles. All together outlast a node that is left alone
/// for a request that timed out.
const PAUSE: Duration = Duration::from_millis(200);

/// The command.
///
/// # Errors
/// When it was asked wrongly.
pub(crate) fn main(parser: lexopt::Parser) -> Result<ExitCode, Stop> {
    let asked = Asked::read(parser, &["lease"])?;
    if !asked.names_pools() {
        return Err(Stop::Usage(
            "say which pool: memring commit POOL".to_owned(),
        ));
    }
    let mut all = true;
    for kept in asked.kept()? {
        all &= commit(&kept, asked.lease);
    }
    Ok(ExitCode::from(u8::from(!all)))
}

fn commit(kept: &Kept, lease: Duration) -> bool {
    let mut host = Host::new(kept);
    let epoch = kept.topology.policy.epoch;
    let named = !kept.topology.previous.is_empty();
    let mut said = (Instant::now(), 0);
    let mut progress = |Progress { done, of, held }| {
        let pause = if done == said.1 { WAITING } else { NEWS };
        if said.0.elapsed() >= pause {
            said = (Instant::now(), done);
            let waits = match held {
                0 => String::new(),
                held => format!(
                    "; requests work with {held}: waited for, at most {} s",
                    2 * lease.as_secs()
                ),
            };
            tell(&format!("{}: {done} of {of} keys{waits}", kept.label));
        }
    };
    let (mut last, begun) = (Committed::Again, Instant::now());
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(PAUSE * 2_u32.pow(attempt - 1));
        }
        let call = &mut host.call;
        let who = Committer {
            record_key: &host.record_key,
            named,
            host: &name(),
            random: shared::throw(),
            lease,
        };
        last = host.pool.commit(&who, call, &mut progress);
        let passes = match last {
            // They were waited for long enough.
            Committed::Failed { keys, .. } => keys > 0,
            Committed::Again | Committed::Stopped { .. } => true,
            _ => false,
        } && begun.elapsed() < 2 * lease;
        if !passes {
            break;
        }
    }
    let text = match &last {
        Committed::Done { keys } => {
            say(&format!(
                "{}: epoch {epoch} is committed; {keys} keys had moved",
                kept.label
            ));
            for node in &kept.topology.drained {
                say(&format!(
                    "{}: {} is drained and may be stopped",
                    kept.label,
                    node.ring_name()
                ));
            }
            return true;
        }
        Committed::Nothing => {
            say(&format!(
                "{}: epoch {epoch} was committed before",
                kept.label
            ));
            return true;
        }
        Committed::Again => {
            "records changed all the while. Is a node away, or was it for a moment? memring status says more".to_owned()
        }
        Committed::Stopped { place } => {
            let who = host.pool.ring_name(*place);
            let mute = host.pool.mute(None, &mut host.call).unwrap_or_default();
            match mute.iter().find(|mute| mute.place == *place) {
                Some(mute) => format!(
                    "{who} {}, so nobody can say which sessions move. {}. Run it again then",
                    words::mute(mute),
                    words::remedy(mute)
                ),
                None => format!(
                    "{who} does not answer as it should, and may have what the others lack. Run it again when that is over"
                ),
            }
        }
        Committed::Failed { keys: 0, held, of } => format!(
            "requests worked with {held} of {of} keys, one after the other, for {} s. Run it again",
            2 * lease.as_secs()
        ),
        Committed::Failed { keys, of, .. } => format!(
            "{keys} of {of} keys could not be brought to all of their new nodes. memring status says which node is not trusted; run it again then"
        ),
        Committed::Refused(error) => error.to_string(),
    };
    tell(&format!(
        "memring commit: {}: {text}. Both node lists stay in use, and nothing is lost",
        kept.label
    ));
    false
}

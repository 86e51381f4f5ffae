//! States and changes as sentences: what happened, to whom, what is done about it.

use memring_pool::pool::resync::wait::Mute;
use memring_pool::replica::{Standing, State, Survey};

/// What was seen of a node at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    state: State,
    /// The name of its memory life.
    id: Option<u64>,
}

impl Seen {
    /// Did it answer?
    pub(crate) fn answers(self) -> bool {
        self.state != State::Silent
    }

    /// Node `place` as it stands.
    pub(crate) fn of(survey: &Survey, place: usize) -> Seen {
        Seen {
            state: survey.state(place),
            id: survey.record(place).map(|record| record.id),
        }
    }
}

/// The line about a change of node `place`; `None` when there is nothing new.
pub(crate) fn change(before: Option<Seen>, survey: &Survey, place: usize) -> Option<String> {
    let now = Seen::of(survey, place);
    let who = survey.name(place);
    let Some(before) = before else {
        // The first look tells of what is not as it should be.
        return (now.state != State::Trusted).then(|| format!("{who} {}", state(survey, place)));
    };
    if before.state == now.state {
        let reborn = now.state == State::Trusted && before.id != now.id;
        return reborn.then(|| {
            format!("{who} missed something and was mended by another host; it is trusted")
        });
    }
    let again = match before.state {
        State::Silent => "answers again and ",
        _ => "",
    };
    Some(format!("{who} {again}{}", state(survey, place)))
}

/// How node `place` stands, as the rest of a sentence that begins with its name.
fn state(survey: &Survey, place: usize) -> String {
    match (survey.state(place), survey.standing(place)) {
        (State::Silent, Some(Standing::Silent(error))) => format!(
            "does not answer: {}. It is asked at every look; until then the other nodes serve its keys. Is the server running there?",
            error.cause()
        ),
        (State::Silent, _) => "does not answer".to_owned(),
        (State::Bare, _) => {
            "has no record: it is new, or lost its memory. It joins and gets what the others have".to_owned()
        }
        (State::Strange, _) => {
            "has a record of an unknown format, which is left as it is. Bring this host to the version of memring that wrote it".to_owned()
        }
        (State::Joining, _) => "is joining: it gets what it lacks from the others".to_owned(),
        (State::Listed, _) => {
            let by = survey.listings(place).next();
            let by = by.map_or(String::new(), |by| {
                format!(", says {} since {}", by.by, time(by.since))
            });
            format!("missed writes{by}. It gets what it lacks from the others")
        }
        (State::Trusted, _) => "is trusted: it has all that was acknowledged".to_owned(),
    }
}

/// How many nodes stand how: "3 nodes, 2 trusted, 1 silent".
pub(crate) fn count(survey: &Survey) -> String {
    let mut text = format!("{} nodes", survey.len());
    for state in [
        State::Trusted,
        State::Joining,
        State::Listed,
        State::Bare,
        State::Strange,
        State::Silent,
    ] {
        let number = survey.all(state).count();
        if number > 0 {
            text.push_str(&format!(", {number} {}", state.word()));
        }
    }
    text
}

/// What is said of a node that lists its keys to nobody, behind its name.
pub(crate) fn mute(mute: &Mute) -> String {
    format!("does not list its keys ({})", mute.said)
}

/// What can be done about that.
pub(crate) fn remedy(mute: &Mute) -> &'static str {
    // Who starts it anew takes its memory away: that has to wait, but for the one that needs no start.
    match mute.said.contains("disabled") {
        true => {
            "Say lru_crawler enable to it, which takes effect at once, and start memcached there without -o no_lru_crawler the next time"
        }
        false => {
            "Start memcached there without -X, but not before memring status says that it is safe to touch the next node"
        }
    }
}

/// So many seconds, in the two largest units that they have.
pub(crate) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit);
    let two = units.iter().skip(first.unwrap_or(units.len() - 1)).take(2);
    let mut rest = seconds;
    let parts: Vec<String> = two
        .map(|(unit, name)| {
            let number = rest / unit;
            rest %= unit;
            format!("{number} {name}")
        })
        .collect();
    parts.join(" ")
}

/// Seconds since 1970 as a date and a time of day, UTC.
pub(crate) fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar from a count of days, in eras of 400 years from the March of year 0
    // (Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use memring_pool::error::{Error, Kind};
    use memring_pool::replica::Record;

    fn one(standing: Standing) -> Survey {
        Survey::new(vec![("a:1".into(), standing)])
    }

    #[test]
    fn a_change_is_told_once_and_says_what_is_done() {
        let silent = one(Standing::Silent(Error::new(
            Kind::Connect,
            "Connection refused",
        )));
        let trusted = one(Standing::Known(Record::new(1, 5).trusted()));
        let other = one(Standing::Known(Record::new(1, 6).trusted()));
        assert_eq!(change(None, &trusted, 0), None);
        let before = Some(Seen::of(&trusted, 0));
        assert_eq!(change(before, &trusted, 0), None);
        let line = change(before, &silent, 0).unwrap_or_default();
        assert!(line.starts_with("a:1 does not answer: Connection refused. It is asked"));
        let line = change(before, &other, 0).unwrap_or_default();
        assert!(line.contains("mended by another host"), "{line}");
        let before = Some(Seen::of(&silent, 0));
        assert_eq!(change(before, &silent, 0), None);
        let line = change(before, &one(Standing::Bare), 0).unwrap_or_default();
        assert!(
            line.starts_with("a:1 answers again and has no record"),
            "{line}"
        );
    }

    #[test]
    fn a_span_has_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (1570, "26 min 10 s"),
            (7260, "2 h 1 min"),
            (2_594_602, "30 d 0 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(time(1_767_225_600), "2026-01-01 00:00:00 UTC");
    }
}

//! The checker of a cache's values, tried on small histories: each violation, and what looks like
//! one and is none.

use super::*;

const KEY: usize = 0;

/// One call after the other on a key of the nodes 0 and 1, a second apart.
struct Story(Values, u64);

impl Story {
    fn new() -> Story {
        Story(Values::new(vec![vec![0, 1]], false), 0)
    }

    fn write(&mut self, act: Act, end: End) -> usize {
        self.1 += 1000;
        let write = self.0.begin(self.1, KEY, act);
        self.0.end(self.1, write, end);
        write
    }

    fn read(&mut self, value: Option<usize>) -> Option<Seen> {
        self.1 += 1000;
        let begin = self.0.begin_read();
        self.0.end_read(self.1, KEY, begin, value.map(Ok))
    }

    fn found(&self) -> Vec<Violation> {
        self.0.found.iter().map(|(_, kind, _)| *kind).collect()
    }
}

#[test]
fn what_was_acknowledged_may_not_be_missing_nor_older_nor_revived() {
    let mut story = Story::new();
    let first = story.write(Act::Set, End::Acked);
    story.read(None);
    let second = story.write(Act::Set, End::Acked);
    story.read(Some(second));
    story.read(Some(first));
    story.write(Act::Delete, End::Acked);
    story.read(None);
    story.read(Some(second));
    story.write(Act::Add, End::Taken);
    let kinds = [
        Violation::Lost,
        Violation::Older,
        Violation::Revived,
        Violation::Revived,
    ];
    assert_eq!(story.found(), kinds);
}

#[test]
fn what_nobody_was_told_of_may_come_at_any_time_and_what_was_refused_never() {
    let mut story = Story::new();
    let unsure = story.write(Act::Set, End::Unsure);
    let first = story.write(Act::Set, End::Acked);
    story.read(Some(unsure));
    story.read(Some(first));
    story.write(Act::Delete, End::Unsure);
    story.read(None);
    assert_eq!(story.found(), []);
    let refused = story.write(Act::Add, End::Taken);
    story.read(Some(refused));
    story.0.end_read(0, KEY, 0, Some(Err("x".into())));
    assert_eq!(story.found(), [Violation::Strange; 2]);
}

#[test]
fn of_two_on_the_same_value_one_wins() {
    let mut story = Story::new();
    let first = story.write(Act::Set, End::Acked);
    let seen = story.read(Some(first)).unwrap();
    story.write(Act::Cas(seen), End::Acked);
    story.write(Act::Cas(seen), End::Beaten);
    assert_eq!(story.found(), []);
    story.write(Act::Cas(seen), End::Acked);
    assert_eq!(story.found(), [Violation::TwoOwners]);
}

#[test]
fn a_second_fault_excuses_what_the_first_left_on_one_node() {
    let mut story = Story::new();
    story.write(Act::Set, End::Acked);
    story.0.wiped(0);
    story.0.wiped(1);
    story.read(None);
    story.write(Act::Set, End::Acked);
    story.0.wiped(1);
    story.write(Act::Set, End::Acked);
    story.0.wiped(0);
    assert_eq!(story.found(), []);
    story.read(None);
    assert_eq!(story.found(), [Violation::Lost]);
}

#[test]
fn a_count_grows_by_one_with_each_success_and_no_faster() {
    let mut story = Story::new();
    let count = |story: &mut Story, number| {
        let _ = story.0.begin(0, KEY, Act::Increment);
        let begin = story.0.begin_read();
        story.0.counted(0, KEY, begin, number, true);
    };
    count(&mut story, 1);
    count(&mut story, 2);
    assert_eq!(story.found(), []);
    count(&mut story, 2);
    count(&mut story, 5);
    assert_eq!(story.found(), [Violation::Older, Violation::Strange]);
}

#[test]
fn a_version_has_one_value() {
    let mut story = Story::new();
    story.0.stored(0, b"a", (7, false, b"x".to_vec()));
    story.0.stored(0, b"a", (7, false, b"x".to_vec()));
    assert_eq!(story.found(), []);
    story.0.stored(0, b"a", (7, true, Vec::new()));
    assert_eq!(story.found(), [Violation::TwoValues]);
}

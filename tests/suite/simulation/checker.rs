//! The history checker, tried on small histories: each violation once, and what looks like
//! one and is none.

use std::sync::Arc;

use memring_pool::replica::Version;

use super::history::{Answer, Base, Change, History, Violation};

const LIFE: u64 = 1_000_000;

/// One client's calls in order, on key 1 at time 0.
#[derive(Default)]
struct Story(History);

impl Story {
    fn read(&mut self, answer: Answer) -> Base {
        let reading = self.0.begin_read(1);
        self.0.end_read(0, reading, answer);
        Base::Read(reading)
    }

    fn write(&mut self, base: Base, acked: bool) -> Change {
        let change = self.0.begin_write(0, 1, base, LIFE);
        self.end(change, acked)
    }

    fn destroy(&mut self, base: Base, acked: bool) -> Change {
        let change = self.0.begin_destroy(1, base);
        self.end(change, acked)
    }

    fn end(&mut self, change: Change, acked: bool) -> Change {
        match acked {
            true => self.0.ack(0, change),
            false => self.0.fail(change),
        }
        change
    }

    fn found(&self) -> Vec<Violation> {
        self.0.found.iter().map(|(_, kind, _)| *kind).collect()
    }
}

#[test]
fn an_acknowledged_value_that_is_gone_is_lost_once() {
    let mut story = Story::default();
    let base = story.read(Answer::Nothing);
    story.write(base, true);
    story.read(Answer::Nothing);
    story.read(Answer::Nothing);
    assert_eq!(story.found(), [Violation::Lost]);
}

#[test]
fn a_value_that_expired_or_was_destroyed_or_never_acknowledged_is_not_lost() {
    let mut story = Story::default();
    story.write(Base::Blind, false);
    let base = story.read(Answer::Nothing);
    let value = story.write(base, true);
    story.0.touched(5, value, LIFE);
    let reading = story.0.begin_read(1);
    story.0.end_read(LIFE + 5, reading, Answer::Nothing);
    let base = story.read(Answer::Value(value));
    story.destroy(base, false);
    story.read(Answer::Nothing);
    assert_eq!(story.found(), []);
}

#[test]
fn a_destroy_that_was_over_before_explains_no_loss() {
    let mut story = Story::default();
    story.destroy(Base::Blind, false);
    story.write(Base::Blind, true);
    story.read(Answer::Nothing);
    assert_eq!(story.found(), [Violation::Lost]);
}

#[test]
fn a_value_from_before_an_acknowledged_one_is_older() {
    let mut story = Story::default();
    let first = story.write(Base::Blind, true);
    let base = story.read(Answer::Value(first));
    let second = story.write(base, true);
    story.read(Answer::Value(second));
    story.read(Answer::Value(first));
    assert_eq!(story.found(), [Violation::Older]);
}

#[test]
fn what_was_read_once_may_not_be_unread_though_nobody_acknowledged_it() {
    let mut story = Story::default();
    let first = story.write(Base::Blind, true);
    let base = story.read(Answer::Value(first));
    let second = story.write(base, false);
    story.read(Answer::Value(first));
    assert_eq!(story.found(), []);
    story.read(Answer::Value(second));
    story.read(Answer::Value(first));
    assert_eq!(story.found(), [Violation::Older]);
}

#[test]
fn what_was_read_with_a_warning_may_be_unread_unless_it_was_acknowledged() {
    let mut story = Story::default();
    let first = story.write(Base::Blind, true);
    let base = story.read(Answer::Value(first));
    let second = story.write(base, false);
    story.read(Answer::Perhaps(second));
    let base = story.read(Answer::Value(first));
    assert_eq!(story.found(), []);
    let third = story.write(base, true);
    story.read(Answer::Perhaps(third));
    story.read(Answer::Perhaps(first));
    assert_eq!(story.found(), [Violation::Older]);
}

#[test]
fn a_value_from_before_an_acknowledged_destroy_is_revived_and_a_new_one_is_not() {
    let mut story = Story::default();
    let first = story.write(Base::Blind, true);
    let base = story.read(Answer::Value(first));
    story.destroy(base, true);
    let base = story.read(Answer::Nothing);
    let second = story.write(base, true);
    story.read(Answer::Value(second));
    assert_eq!(story.found(), []);
    story.read(Answer::Value(first));
    // One bad read is one violation, the worst of all.
    assert_eq!(story.found().len(), 1);
}

#[test]
fn two_acknowledged_writes_on_one_base_are_two_owners() {
    let mut story = Story::default();
    let first = story.write(Base::Blind, true);
    let (one, two) = (
        story.read(Answer::Value(first)),
        story.read(Answer::Value(first)),
    );
    story.write(one, true);
    assert_eq!(story.found(), []);
    story.write(two, true);
    assert_eq!(story.found(), [Violation::TwoOwners]);
}

#[test]
fn a_version_has_one_value_and_a_value_has_a_writer() {
    let mut story = Story::default();
    let change = story.write(Base::Blind, true);
    let held = |data| (Version(7), false, data);
    story.0.stored(0, 1, held(change.data()));
    story.0.stored(0, 1, held(change.data()));
    assert_eq!(story.found(), []);
    story.0.stored(0, 1, held(Arc::from([])));
    story.read(Answer::Strange);
    story.read(Answer::Refused { needless: false });
    story.read(Answer::Refused { needless: true });
    assert_eq!(
        story.found(),
        [Violation::TwoValues, Violation::Strange, Violation::Refused]
    );
}

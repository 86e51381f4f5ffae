//! An unchanged session that some copy lacks, or all.

use super::super::Store;
use super::super::words::Said;
use super::{Error, Keys, Sessions};
use std::time::Instant;

impl Sessions {
    /// Stores an unchanged session on the copies that lack it.
    ///
    /// The turn went back with the touch, so it is taken again, without waiting: who has it
    /// now ends by touching or storing the session anyway. Where a copy had the session
    /// (`kept`), it must still be the same one: it may have been changed or destroyed since.
    pub(super) fn mend(
        &mut self,
        id: &[u8],
        keys: &Keys,
        data: &[u8],
        lifetime: u32,
        kept: bool,
    ) -> Result<(), Error> {
        self.release();
        for node in self.places(keys) {
            if !self.pool.allows(node, Instant::now()) {
                continue;
            }
            match self.ask(node, keys) {
                Said::Nothing(_) => {}
                Said::Unread(_) => {
                    self.holds(id, node, 0);
                    self.release();
                }
                Said::Taken => return Ok(()),
                Said::Ours(found, cas) => {
                    self.holds(id, node, cas);
                    let same = match kept {
                        true => self.look(id)?.as_deref() == Some(data),
                        // Nothing was anywhere; what is here now somebody stored since.
                        false => found.is_none(),
                    };
                    if same {
                        return self.write(id, data, lifetime);
                    }
                    self.release();
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

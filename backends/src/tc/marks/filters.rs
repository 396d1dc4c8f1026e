//! The tc side of marks: from the mark of a packet to our device.

use std::collections::BTreeSet;

use chadthrottle_core::{Direction, Result};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcFilterU32Option, TcOption},
};

use super::COUNTED;
use crate::{
    moved::{MARK_MASK, Mark},
    rtnetlink::Socket,
    tc::{
        classifiers::no_filter,
        hook::{ETHERTYPES, Hook, list},
        message::{NEW, filter},
        u32::{act, clear_mark, key, mirred, recall_mark, terminal},
    },
};

/// The filters of one hook. They stay the same, whatever sockets the target has.
#[derive(Debug)]
pub(in crate::tc) struct Marking {
    direction: Direction,
    mark: Mark,
}

impl Marking {
    /// Adds them.
    pub(in crate::tc) fn plant(
        rt: &mut Socket,
        hook: &Hook,
        direction: Direction,
        device: u32,
        mark: Mark,
    ) -> Result<Self> {
        let marking = Self { direction, mark };
        for (family, ethertype) in ETHERTYPES.into_iter().enumerate() {
            let preference = hook.preference(direction, family);
            for options in marking.options(device) {
                let message = filter(hook.spot(direction), 0, preference, ethertype, options);
                rt.execute(RouteNetlinkMessage::NewTrafficFilter(message), NEW)
                    .map_err(|refusal| no_filter(&hook.link.name, refusal))?;
            }
        }
        Ok(marking)
    }

    /// Of downloads the mark is that of the connection, recalled where there is none yet; it is
    /// taken off again, since nobody further up asked for it.
    fn options(&self, device: u32) -> Vec<Vec<TcOption>> {
        let any = || terminal(vec![key(0, 0, 0)]);
        let filter = |value: u32, mask: u32, actions| {
            let words = [value, mask, 0].into_iter().flat_map(u32::to_ne_bytes);
            let mut options = act(any(), actions);
            options.push(TcOption::U32(TcFilterU32Option::Mark(words.collect())));
            options
        };
        let redirect = || vec![clear_mark(MARK_MASK), mirred(device)];
        match self.direction {
            Direction::Download => vec![
                filter(0, u32::MAX, vec![recall_mark(MARK_MASK)]),
                filter(self.mark.value(), MARK_MASK, redirect()),
            ],
            // COUNTED stays: a tunnel must see that the packet was attributed.
            Direction::Upload => vec![filter(
                self.mark.value() | COUNTED,
                MARK_MASK,
                vec![clear_mark(self.mark.value() & 0xfff & !COUNTED), mirred(device)],
            )],
        }
    }

    /// Whether the kernel has them, marks included: some kernels take a mark and ignore it.
    pub(in crate::tc) fn is_intact(&self, rt: &mut Socket, hook: &Hook) -> Result<bool> {
        let listed = list(rt, hook.spot(self.direction))?;
        let expected: BTreeSet<(u16, [u32; 2])> = (0..ETHERTYPES.len())
            .flat_map(|family| {
                let preference = hook.preference(self.direction, family);
                let marks: Vec<[u32; 2]> = match self.direction {
                    Direction::Download => {
                        vec![[0, u32::MAX], [self.mark.value(), MARK_MASK]]
                    }
                    Direction::Upload => vec![[self.mark.value() | COUNTED, MARK_MASK]],
                };
                marks.into_iter().map(move |mark| (preference, mark))
            })
            .collect();
        let found = listed.iter().filter_map(|filter| Some((filter.preference, filter.mark?)));
        Ok(expected.is_subset(&found.collect()))
    }
}

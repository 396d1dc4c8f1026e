//! The nftables of one limit in one namespace: from the socket of a packet to its marks.
//!
//! ```text
//! table inet chadthrottle-tc-PID-N {         # owned: goes when our socket closes
//!   chain output {
//!     oiftype loopback accept
//!     meta mark & (instance | COUNTED) == instance | COUNTED accept   # wrapped by a tunnel
//!     socket mark & MASK == MARK goto mark                 # created elsewhere
//!     socket cgroupv2 level L == ID goto mark              # for each place
//!     ct mark & MASK == MARK  ct mark set ct mark & OTHERS # not the target's any more
//!   }
//!   chain mark {
//!     meta mark & MASK in 0, MARK  meta mark set meta mark & OTHERS | MARK | COUNTED
//!     ct mark & MASK == 0          ct mark set ct mark & OTHERS | MARK
//!   }
//!   chain input { the same, but for the packet's own mark }
//! }
//! ```

use std::{
    ffi::{CStr, CString},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use chadthrottle_core::Result;
use nftnl::{
    Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule,
    expr::{Bitwise, Cmp, CmpOp, Conntrack, Expression, Meta, Socket, SocketKey, Verdict},
};

use super::{COUNTED, INSTANCE, OTHERS};
use crate::{
    moved::{MARK_MASK, Mark, Place},
    netfilter::{Batch, Connection},
    netns::{self, Netns},
};

/// After conntrack (-200) and mangle (-150), so that both have said what they want.
const OUTPUT: i32 = -140;
/// After the filters of others: what they drop need not be tracked.
const INPUT: i32 = 150;
/// `ARPHRD_LOOPBACK` (`include/uapi/linux/if_arp.h`).
const LOOPBACK: u16 = 772;

/// See the module's documentation.
pub(in crate::tc) struct Table {
    connection: Connection,
    name: CString,
    mark: Mark,
    places: Vec<Place>,
}

impl Table {
    /// Makes it in a namespace, for these places.
    pub(in crate::tc) fn open(netns: &Netns, mark: Mark, places: &[Place]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("chadthrottle-tc-{}-{number}", std::process::id());
        let table = Self {
            connection: netns::run_in(netns, Connection::open)??,
            name: CString::new(name).unwrap_or_default(),
            mark,
            places: places.to_vec(),
        };
        let mut batch = Batch::new();
        batch.create_owned_table(&table.name, ProtoFamily::Inet);
        table.fill(&mut batch);
        table.connection.commit(batch)?;
        Ok(table)
    }

    /// Matches these places from now on; no packet passes unmarked meanwhile.
    pub(in crate::tc) fn set_places(&mut self, places: &[Place]) -> Result<()> {
        if self.places == places {
            return Ok(());
        }
        self.places = places.to_vec();
        let mut batch = Batch::new();
        batch.delete_table(&self.name, ProtoFamily::Inet);
        batch.create_owned_table(&self.name, ProtoFamily::Inet);
        self.fill(&mut batch);
        self.connection.commit(batch)
    }

    fn fill(&self, batch: &mut Batch) {
        let table = nftnl::Table::new(&self.name, ProtoFamily::Inet);
        let mark = chain(&table, c"mark");
        let track = chain(&table, c"track");
        for chain in [&mark, &track] {
            batch.add("create a chain", chain, MsgType::Add);
        }
        self.mark_packet(batch, &mark);
        self.mark_connection(batch, &mark);
        self.mark_connection(batch, &track);
        for (name, hook, priority, interface, target) in [
            (c"output", Hook::Out, OUTPUT, Meta::OifType, c"mark"),
            (c"input", Hook::In, INPUT, Meta::IifType, c"track"),
        ] {
            let mut chain = chain(&table, name);
            chain.set_type(ChainType::Filter);
            chain.set_hook(hook, priority);
            chain.set_policy(Policy::Accept);
            batch.add("create a chain", &chain, MsgType::Add);
            add(batch, &chain, &[&interface, &Cmp::new(CmpOp::Eq, LOOPBACK), &Verdict::Accept]);
            if target == c"mark" {
                self.pass_counted(batch, &chain);
            }
            self.match_sockets(batch, &chain, target);
            self.forget_connection(batch, &chain);
        }
    }

    fn value(&self) -> u32 {
        self.mark.value()
    }

    /// What a tunnel has wrapped was attributed before.
    fn pass_counted(&self, batch: &mut Batch, chain: &Chain<'_>) {
        let counted = (self.value() & INSTANCE) | COUNTED;
        add(
            batch,
            chain,
            &[
                &Meta::Mark { set: false },
                &Bitwise::new(INSTANCE | COUNTED, 0_u32),
                &Cmp::new(CmpOp::Eq, counted),
                &Verdict::Accept,
            ],
        );
    }

    fn match_sockets(&self, batch: &mut Batch, chain: &Chain<'_>, target: &CStr) {
        let goto = || Verdict::Goto { chain: target.to_owned() };
        add(
            batch,
            chain,
            &[
                &Socket::new(SocketKey::Mark, 0),
                &Bitwise::new(MARK_MASK, 0_u32),
                &Cmp::new(CmpOp::Eq, self.value()),
                &goto(),
            ],
        );
        for place in &self.places {
            add(
                batch,
                chain,
                &[
                    &Socket::new(SocketKey::CgroupV2, place.level),
                    &Cmp::new(CmpOp::Eq, &place.id.to_ne_bytes()[..]),
                    &goto(),
                ],
            );
        }
    }

    fn mark_packet(&self, batch: &mut Batch, chain: &Chain<'_>) {
        for now in [0, self.value()] {
            add(
                batch,
                chain,
                &[
                    &Meta::Mark { set: false },
                    &Bitwise::new(MARK_MASK, 0_u32),
                    &Cmp::new(CmpOp::Eq, now),
                    &Meta::Mark { set: false },
                    &Bitwise::new(OTHERS, self.value() | COUNTED),
                    &Meta::Mark { set: true },
                ],
            );
        }
    }

    fn mark_connection(&self, batch: &mut Batch, chain: &Chain<'_>) {
        add(
            batch,
            chain,
            &[
                &Conntrack::Mark { set: false },
                &Bitwise::new(MARK_MASK, 0_u32),
                &Cmp::new(CmpOp::Eq, 0_u32),
                &Conntrack::Mark { set: false },
                &Bitwise::new(OTHERS, self.value()),
                &Conntrack::Mark { set: true },
            ],
        );
    }

    /// A socket that was given away takes its connection along.
    fn forget_connection(&self, batch: &mut Batch, chain: &Chain<'_>) {
        add(
            batch,
            chain,
            &[
                &Conntrack::Mark { set: false },
                &Bitwise::new(MARK_MASK, 0_u32),
                &Cmp::new(CmpOp::Eq, self.value()),
                &Conntrack::Mark { set: false },
                &Bitwise::new(OTHERS, 0_u32),
                &Conntrack::Mark { set: true },
            ],
        );
    }
}

fn chain<'a>(table: &'a nftnl::Table, name: &CStr) -> Chain<'a> {
    Chain::new(name, table)
}

/// Any expression: a rule takes those of a known size only.
struct Any<'a>(&'a dyn Expression);

impl Expression for Any<'_> {
    fn to_expr(&self, rule: &Rule<'_>) -> NonNull<nftnl::nftnl_sys::nftnl_expr> {
        self.0.to_expr(rule)
    }
}

fn add(batch: &mut Batch, chain: &Chain<'_>, expressions: &[&dyn Expression]) {
    let mut rule = Rule::new(chain);
    for expression in expressions {
        rule.add_expr(&Any(*expression));
    }
    batch.add("add a rule", &rule, MsgType::Add);
}

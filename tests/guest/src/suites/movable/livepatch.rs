// SPDX-License-Identifier: GPL-2.0

//! A livepatch of a function that the module redirects, too: the kernel allows only one of the two.

use guest::expect;
use guest::kernel::kmsg::Kmsg;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::provoke::livepatch::Livepatch;
use guest::tests;
use guest::Context;
use guest::Result;

use super::group::Group;
use super::MOVABLE;

pub(super) const TESTS: &[Test] = tests![
    pages_stay_in_place_beside_a_livepatch,
    a_livepatch_of_a_redirected_function_is_refused,
];

const PAGES: u64 = 64;
/// The module's log message when it finds a livepatch.
const MESSAGE: &str = "another module redirects rmap_walk_ksm()";

/// Loads the module while the livepatch is active, and expects that it merges pages but does not make
/// them movable.
fn load_beside_livepatch(lab: &Lab) -> Result {
    let _livepatch = Livepatch::new().context(|| "the livepatch")?;
    let mut kmsg = Kmsg::open()?;
    module::load("")?;
    let messages = kmsg.messages();
    expect::that(messages.iter().any(|text| text.contains(MESSAGE)), || {
        format!("the log: expected {MESSAGE:?}, found {messages:?}")
    })?;
    expect::eq("movable", 0, knob::number(MOVABLE)?)?;
    let written = knob::try_write(MOVABLE, b"1\n");
    expect::errno("writing 1 to movable", libc::EOPNOTSUPP, written)?;
    expect::eq("movable", 0, knob::number(MOVABLE)?)?;
    scanner::settle_knobs()?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_intact("beside a livepatch")?;
    for frame in &frames {
        let flags = frame.flags()?;
        expect::that(!flags.lru(), || {
            format!("{frame:?}: expected to be on no list, found {flags:?}")
        })?;
    }
    scanner::expect_exact_counts("beside a livepatch")?;
    group.expect_in_place("after all", &frames)?;
    module::unload()?;
    group.check("without the module")
}

fn pages_stay_in_place_beside_a_livepatch(lab: &Lab) -> Result {
    module::unload()?;
    let merged = load_beside_livepatch(lab);
    // The livepatch is disabled now, so the module may redirect the function again.
    module::reload("")?;
    scanner::settle_knobs()?;
    merged?;
    expect::eq("movable, without a livepatch", 1, knob::number(MOVABLE)?)
}

fn a_livepatch_of_a_redirected_function_is_refused(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    let refused = Livepatch::new().map(drop);
    expect::errno("enabling the livepatch", libc::EBUSY, refused)?;
    expect::eq("movable", 1, knob::number(MOVABLE)?)?;
    for node in [1, 0] {
        group.move_all(0, node)?;
        group.expect_intact("after a livepatch was refused")?;
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! What reading the counts walks.

use guest::expect;
use guest::kernel::probe::CallCount;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::child;
use guest::tests;
use guest::Context;
use guest::Result;

use super::merged_pair;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![users_who_read_counts_have_nothing_walked];

/// Reading the files counts the mappings of each shared page and the zero pages of each process only
/// for root.
fn users_who_read_counts_have_nothing_walked(lab: &Lab) -> Result {
    let _merged = merged_pair(lab)?;
    scanner::stop()?;
    let (frames, processes) = (
        CallCount::start("pfn_to_online_page")?,
        CallCount::start("find_ge_pid")?,
    );
    let calls = || -> Result<(u64, u64)> { Ok((frames.calls()?, processes.calls()?)) };
    let read_all = || -> std::io::Result<()> {
        for name in [
            "pages_shared",
            "pages_sharing",
            "merge_ratio_x100",
            "zero_pages",
        ] {
            std::fs::read(knob::path(name))?;
        }
        for name in [
            "pages_shared",
            "pages_volatile",
            "ksm_zero_pages",
            "stable_node_chains",
            "stable_node_dups",
            "general_profit",
        ] {
            std::fs::read(knob::path(&format!("compat/{name}")))?;
        }
        Ok(())
    };
    // Other tasks call these functions now and then, but not during each of many attempts.
    let mut before = calls()?;
    let mut is_quiet = false;
    for _ in 0..20 {
        child::attempt(|| child::become_user(1000).and_then(|()| read_all()))
            .context(|| "reading as a user")?;
        let after = calls()?;
        is_quiet |= after == before;
        before = after;
    }
    expect::that(is_quiet, || "reading as a user: expected no calls")?;
    child::attempt(read_all).context(|| "reading as root")?;
    let after = calls()?;
    expect::that(after.0 >= before.0 + PAGES && after.1 > before.1, || {
        format!("reading as root: expected more calls: {before:?}, {after:?}")
    })
}

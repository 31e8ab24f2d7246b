// SPDX-License-Identifier: GPL-2.0

//! `redhat_only_zero_pages`, a file of Red Hat's kernels that a module parameter adds.

use guest::expect;
use guest::ksm_v::compat;
use guest::ksm_v::knob;
use guest::ksm_v::knob::MAINLINE;
use guest::ksm_v::module;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    the_file_is_there_if_the_parameter_is_set,
    only_zeros_of_registered_memory_are_merged,
];

const FILE: &str = "redhat_only_zero_pages";
const SET: &str = "redhat_only_zero_pages=1";

fn the_file_is_there_if_the_parameter_is_set(_: &Lab) -> Result {
    let mainlines = compat::names(MAINLINE)?;
    module::reload("redhat_only_zero_pages=0")?;
    expect::eq("files", &mainlines, &compat::names(compat::DIR)?)?;
    module::reload(SET)?;
    let mut with = mainlines;
    with.push(FILE.to_owned());
    with.sort();
    expect::eq(
        "files with the parameter",
        with,
        compat::names(compat::DIR)?,
    )?;
    expect::eq(FILE, 0, compat::number(FILE)?)?;
    for bad in ["2", "word", "-1"] {
        let written = knob::try_write_in(compat::DIR, FILE, bad.as_bytes());
        expect::that(written.is_err(), || format!("{FILE} took {bad:?}"))?;
        expect::eq(FILE, 0, compat::number(FILE)?)?;
    }
    compat::set(FILE, 1)?;
    expect::eq(FILE, 1, compat::number(FILE)?)?;
    compat::set(FILE, 0)?;
    module::reload("")
}

/// Red Hat's kernels do not ask for `use_zero_pages` either.
fn only_zeros_of_registered_memory_are_merged(lab: &Lab) -> Result {
    module::reload(SET)?;
    compat::settle()?;
    compat::set(FILE, 1)?;
    let (a, b) = lab.pair()?;
    let zeros = a.registered(64, Ids::ZERO)?;
    let not_registered = a.anon(64, Ids::ZERO)?;
    let alike = [
        a.registered(64, Ids::each(100))?,
        b.registered(64, Ids::each(100))?,
    ];
    compat::merge()?;
    pages::expect_zero_page((&a, zeros))?;
    pages::expect_not_merged((&a, not_registered))?;
    pages::expect_not_merged((&a, alike[0]))?;
    pages::expect_not_merged((&b, alike[1]))?;
    expect::eq("ksm_zero_pages", 64, compat::number("ksm_zero_pages")?)?;
    compat::set(FILE, 0)?;
    compat::merge()?;
    pages::expect_merged(&[(&a, alike[0]), (&b, alike[1])])?;
    pages::expect_zero_page((&a, zeros))?;
    compat::set("run", 2)?;
    module::reload("")
}

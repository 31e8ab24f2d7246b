// SPDX-License-Identifier: GPL-2.0

//! Symbols that the kernel does not export: if one is missing, the load fails and the log names the
//! symbol.
//!
//! All tested kernels have all symbols. So the test changes the last letter of a symbol in the import
//! table, in a copy of the module.

use std::fs;

use guest::expect;
use guest::kernel::kmsg::Kmsg;
use guest::ksm_v::module;
use guest::lab::Lab;
use guest::lab::Test;
use guest::tests;
use guest::Context;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    a_missing_function_refuses_the_load,
    a_missing_variable_refuses_the_load,
];

fn a_missing_function_refuses_the_load(_: &Lab) -> Result {
    refuses_without("folio_free_swap")
}

fn a_missing_variable_refuses_the_load(_: &Lab) -> Result {
    refuses_without("ksm_zero_pages")
}

fn refuses_without(symbol: &str) -> Result {
    let (file, missing) = copy_without(symbol)?;
    if module::is_loaded() {
        module::unload()?;
    }
    let mut log = Kmsg::open()?;
    let loaded = module::load_file(file, "");
    expect::errno(format!("loading without {symbol}"), libc::ENOENT, loaded)?;
    let messages = log.messages();
    expect::that(
        messages.iter().any(|message| message.contains(&missing)),
        || format!("the log should name {missing}, but says {messages:?}"),
    )?;
    expect::that(!module::is_loaded(), || {
        "the module should leave nothing behind"
    })?;
    module::load("")
}

/// Copies the module with a changed symbol name; returns the path of the copy and the changed name.
fn copy_without(symbol: &str) -> Result<(&'static str, String)> {
    const COPY: &str = "./ksm_v-incomplete.ko";
    let mut missing = symbol[..symbol.len() - 1].to_owned();
    missing.push('Q');
    let mut bytes = fs::read(module::file()).context(module::file)?;
    let changed = replace(&mut bytes, symbol, &missing);
    expect::that(changed > 0, || format!("{symbol} should be in the module"))?;
    fs::write(COPY, bytes).context(|| COPY)?;
    Ok((COPY, missing))
}

/// Replaces a NUL-delimited string by another one of the same length; returns how often.
fn replace(bytes: &mut [u8], old: &str, new: &str) -> usize {
    let pattern = format!("\0{old}\0").into_bytes();
    let places: Vec<usize> = (0..bytes.len().saturating_sub(pattern.len()))
        .filter(|&at| bytes[at..].starts_with(&pattern))
        .collect();
    for &at in &places {
        bytes[at + 1..][..new.len()].copy_from_slice(new.as_bytes());
    }
    places.len()
}

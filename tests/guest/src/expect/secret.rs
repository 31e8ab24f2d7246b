// SPDX-License-Identifier: GPL-2.0

//! Detects kernel addresses in data shown to user space.

use std::fmt::Display;

use crate::expect;
use crate::Result;

/// The start of the kernel's half of the address space, with five levels of page tables or four.
const FIRST: u64 = 0xff00_0000_0000_0000;
/// The last 16 MiB contain nothing: values there are small negative numbers, not addresses.
const LAST: u64 = u64::MAX - (16 << 20);

/// Expects that a text or binary data contains no kernel address.
pub fn expect_no_address(place: impl Display, bytes: &[u8]) -> Result {
    let found = in_text(&String::from_utf8_lossy(bytes)).or_else(|| in_binary(bytes));
    expect::that(found.is_none(), || {
        format!(
            "{place}: expected no kernel address, found {:#x} in {:?}",
            found.unwrap_or(0),
            String::from_utf8_lossy(bytes)
        )
    })
}

fn is_address(value: u64) -> bool {
    (FIRST..=LAST).contains(&value)
}

/// Searches numbers of 16 hexadecimal digits, and decimal numbers.
fn in_text(text: &str) -> Option<u64> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words
        .flat_map(|word| {
            let digits = word.strip_prefix("0x").unwrap_or(word);
            let hex = u64::from_str_radix(digits, 16).ok();
            [hex.filter(|_| digits.len() == 16), word.parse().ok()]
        })
        .flatten()
        .find(|&value| is_address(value))
}

/// Searches eight consecutive bytes at any offset.
fn in_binary(bytes: &[u8]) -> Option<u64> {
    bytes
        .windows(8)
        .map(|window| u64::from_le_bytes(window.try_into().expect("8 bytes")))
        .find(|&value| value >> 47 == (1 << 17) - 1 && is_address(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_however_they_are_written() {
        let found = |text: &str| expect_no_address("test", text.as_bytes()).is_err();
        assert!(found("at 0xffffffffc0001000"));
        assert!(found("at ffff888000000000, or so"));
        assert!(found("18446612682070000000"));
        assert!(found("x=ff11000000000000"));
        assert!(expect_no_address("test", &0xffff_8880_1234_5678_u64.to_le_bytes()).is_err());
    }

    #[test]
    fn other_numbers_are_none() {
        for text in [
            "12",
            "-1",
            "18446744073709551615",
            "0x7fffdeadbeef",
            "ffffffff",
            "\u{1}\u{ff}",
        ] {
            assert!(expect_no_address("test", text.as_bytes()).is_ok(), "{text}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Tests of the texts that knobs accept and reject: a table of both, and random texts against the
//! standard library's parser.

use engine::parse::decimal;
use engine::parse::kstrtobool;
use engine::parse::kstrtoint;
use engine::parse::kstrtoul;
use engine::parse::process_part;
use engine::parse::streq_word;
use engine::parse::word;
use engine::parse::Misfit;
use model::knob;
use model::knob::WORDS;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prelude::Just;
use proptest::prelude::ProptestConfig;
use proptest::prelude::Strategy;
use proptest::prop_assert_eq;
use proptest::prop_oneof;
use proptest::proptest;
use proptest::sample::select;

#[test]
fn decimal_accepts_digits_and_one_newline() {
    let table: [(&[u8], u64, u64); 12] = [
        (b"0", u64::MAX, 0),
        (b"0\n", u64::MAX, 0),
        (b"7", 9, 7),
        (b"100\n", u64::MAX, 100),
        (b"000", 0, 0),
        (b"007", 7, 7),
        (b"1", 1, 1),
        (b"255\n", 255, 255),
        (b"4294967295", u32::MAX as u64, u32::MAX as u64),
        (b"18446744073709551615", u64::MAX, u64::MAX),
        (b"18446744073709551615\n", u64::MAX, u64::MAX),
        (b"00000000000000000000000000000000000000001", 1, 1),
    ];
    for (text, max, number) in table {
        let shown = text.escape_ascii();
        assert_eq!(decimal(text, max), Some(number), "\"{shown}\" up to {max}");
    }
}

#[test]
fn decimal_refuses_everything_else() {
    let table: [&[u8]; 36] = [
        b"",
        b"\n",
        b"\n\n",
        b"\n1",
        b"1\n\n",
        b"1\n2",
        b"1\r\n",
        b"yes",
        b"one\n",
        b"-1",
        b"-1\n",
        b"-0",
        b"-",
        b"+1",
        b"+",
        b" 1",
        b"1 ",
        b"1 \n",
        b"\t1",
        b" ",
        b"0x10",
        b"0b1",
        b"0o7",
        b"a",
        b"1a",
        b"1_000",
        b"1,000",
        b"1.0",
        b"1e3",
        b"1\0",
        b"\0",
        b"\xff",
        b"1\xff\n",
        "\u{661}".as_bytes(), // a digit, but not ASCII
        b"18446744073709551616",
        b"99999999999999999999\n",
    ];
    for text in table {
        let shown = text.escape_ascii();
        assert_eq!(decimal(text, u64::MAX), None, "\"{shown}\"");
    }
}

#[test]
fn decimal_refuses_a_number_above_the_maximum() {
    for (text, max) in [
        ("1", 0),
        ("256\n", 255),
        ("4294967296", u32::MAX.into()),
        ("18446744073709551615", u64::MAX - 1),
    ] {
        assert_eq!(decimal(text.as_bytes(), max), None, "{text} up to {max}");
    }
}

#[test]
fn a_page_of_text_is_read_to_its_end() {
    for octet in *b"19a \n\0-" {
        assert_eq!(decimal(&[octet; 4096], u64::MAX), None, "{octet}");
        assert_eq!(word(&[octet; 4096], &WORDS), None, "{octet}");
    }
    // Any number of leading zeros is no overflow.
    let mut text = [b'0'; 4096];
    assert_eq!(decimal(&text, 0), Some(0));
    text[4095] = b'5';
    assert_eq!(decimal(&text, 5), Some(5));
    text[4095] = b'x';
    assert_eq!(decimal(&text, 5), None);
}

#[test]
fn process_part_accepts_a_process_or_a_part_of_it() {
    for (text, pid, range) in [
        ("1", 1, 0..usize::MAX),
        ("4194304\n", 4_194_304, 0..usize::MAX),
        ("2147483647", i32::MAX, 0..usize::MAX),
        ("7 1000 3000", 7, 0x1000..0x3000),
        ("7 0x1000 0x3000\n", 7, 0x1000..0x3000),
        ("7 0 7ffFFFFff000", 7, 0..0x7fff_ffff_f000),
    ] {
        let found = process_part(text.as_bytes()).map(|part| (part.pid, part.range));
        assert_eq!(found, Some((pid, range)), "{text:?}");
    }
}

#[test]
fn process_part_refuses_everything_else() {
    for text in [
        "",
        "\n",
        "x",
        "-1",
        "0x1",
        "2147483648",
        "1 ",
        " 1",
        "1\n\n",
        "1\n1000 2000",
        "1 1000",
        "1 1000 ",
        "1  1000 2000",
        "1 1000  2000",
        "1 1000 2000 ",
        "1 1000 2000 3000",
        "1 1000 1000",
        "1 2000 1000",
        "1 1001 2000",
        "1 1000 2001",
        "1 0x 2000",
        "1 -1000 2000",
        "1 1000-2000",
        "1 0 10000000000000000",
        "1\t1000\t2000",
    ] {
        assert_eq!(process_part(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn word_accepts_a_whole_word_and_one_newline() {
    for (position, accepted) in WORDS.into_iter().enumerate() {
        assert_eq!(word(accepted.as_bytes(), &WORDS), Some(position));
        assert_eq!(
            word(format!("{accepted}\n").as_bytes(), &WORDS),
            Some(position)
        );
    }
}

#[test]
fn word_refuses_everything_else() {
    for text in [
        "",
        "\n",
        "use",
        "users",
        "User",
        "USER",
        " user",
        "user ",
        "user\n\n",
        "\nuser",
        "user\0",
        "user global",
        "user\nglobal",
        "0",
        "other",
    ] {
        assert_eq!(word(text.as_bytes(), &WORDS), None, "{text:?}");
    }
    assert_eq!(word(b"\xff", &WORDS), None);
    assert_eq!(word(b"user", &[]), None);
}

/// Texts of about the length and the characters of a number.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        12 => b'0'..=b'9',
        1 => select(b"\n+- \tx_a\0\xff\xd9\xa1".as_slice()),
    ];
    let end = select(vec!["", "\n", "\n\n"]);
    (vec(octet, 0..24), end).prop_map(|(mut text, end)| {
        text.extend(end.bytes());
        text
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn decimal_agrees_with_the_standard_library(
        text in text(),
        max in prop_oneof![any::<u64>(), any::<u32>().prop_map(u64::from), Just(u64::MAX)],
    ) {
        prop_assert_eq!(decimal(&text, max), knob::decimal(&text, max));
    }

    #[test]
    fn decimal_reads_what_the_standard_library_writes(number: u64, max: u64, zeros in 0..9usize) {
        let text = format!("{}{number}\n", "0".repeat(zeros));
        prop_assert_eq!(decimal(text.as_bytes(), u64::MAX), Some(number));
        let within = (number <= max).then_some(number);
        prop_assert_eq!(decimal(text.as_bytes(), max), within);
    }

    #[test]
    fn decimal_knows_the_end_of_its_range(distance in 0..2000u128) {
        let number = u128::from(u64::MAX) - 1000 + distance;
        let text = number.to_string();
        prop_assert_eq!(decimal(text.as_bytes(), u64::MAX), u64::try_from(number).ok());
    }

    #[test]
    fn process_part_agrees_with_the_standard_library(
        text in "[0-9]{1,10}( (0x)?[0-9a-f]{0,4}000){0,3}[ x\n+-]{0,1}",
    ) {
        let found = process_part(text.as_bytes()).map(|part| (part.pid, part.range));
        prop_assert_eq!(found, knob::process_part(text.as_bytes()));
    }

    #[test]
    fn word_accepts_words_only(text in "[a-z]{0,3}(user|global)?[a-z\n]{0,2}") {
        let bare = text.strip_suffix('\n').unwrap_or(&text);
        let position = WORDS.iter().position(|&word| word == bare);
        prop_assert_eq!(word(text.as_bytes(), &WORDS), position);
    }
}

#[test]
fn kstrtoul_takes_what_mainline_takes() {
    let good: [(&[u8], u64); 8] = [
        (b"0", 0),
        (b"7\n", 7),
        (b"+7", 7),
        (b"007", 7),
        (b"7\0", 7),
        (b"7\n\0junk", 7),
        (b"255", 255),
        (b"18446744073709551615", u64::MAX),
    ];
    for (text, number) in good {
        assert_eq!(
            kstrtoul(text, u64::MAX),
            Ok(number),
            "{}",
            text.escape_ascii()
        );
    }
    let bad: [&[u8]; 12] = [
        b"", b"\n", b"+", b"++7", b"+-7", b"-7", b" 7", b"7 ", b"7\n\n", b"0x7", b"\x007", b"7x",
    ];
    for text in bad {
        let found = kstrtoul(text, u64::MAX);
        assert_eq!(found, Err(Misfit::NoNumber), "{}", text.escape_ascii());
    }
    for text in ["256", "18446744073709551616", "99999999999999999999999"] {
        assert_eq!(
            kstrtoul(text.as_bytes(), 255),
            Err(Misfit::TooLarge),
            "{text}"
        );
    }
}

#[test]
fn kstrtoint_takes_what_mainline_takes() {
    let good: [(&[u8], i32); 7] = [
        (b"7", 7),
        (b"+7\n", 7),
        (b"-7\n", -7),
        (b"-0", 0),
        (b"-007\0x", -7),
        (b"2147483647", i32::MAX),
        (b"-2147483648", i32::MIN),
    ];
    for (text, number) in good {
        assert_eq!(kstrtoint(text), Ok(number), "{}", text.escape_ascii());
    }
    for text in ["", "-", "--7", "-+7", "+-7", "- 7", "-7 ", "-7x", "-0x7"] {
        assert_eq!(kstrtoint(text.as_bytes()), Err(Misfit::NoNumber), "{text}");
    }
    for text in [
        "2147483648",
        "-2147483649",
        "-4294967295",
        "4294967296",
        "-18446744073709551615",
        "-18446744073709551616",
        "-99999999999999999999999",
    ] {
        assert_eq!(kstrtoint(text.as_bytes()), Err(Misfit::TooLarge), "{text}");
    }
}

#[test]
fn kstrtobool_looks_at_the_first_letters() {
    let words = ["1", "y", "Yes", "T", "enable", "on", "On\n", "1junk"];
    assert!(words
        .iter()
        .all(|word| kstrtobool(word.as_bytes()) == Some(true)));
    let words = ["0", "n", "No", "f", "Disable", "off", "oFf\n", "00"];
    assert!(words
        .iter()
        .all(|word| kstrtobool(word.as_bytes()) == Some(false)));
    let words = ["", "\n", "2", "o", "ox", " 1", "\u{0}1", "-1"];
    assert!(words
        .iter()
        .all(|word| kstrtobool(word.as_bytes()).is_none()));
}

#[test]
fn streq_word_ends_with_a_nul() {
    let words = ["none", "scan-time"];
    assert_eq!(streq_word(b"scan-time\n\0x", &words), Some(1));
    assert_eq!(streq_word(b"none\0", &words), Some(0));
    assert_eq!(streq_word(b"\0none", &words), None);
    assert_eq!(streq_word(b"none\n\n", &words), None);
}

// SPDX-License-Identifier: GPL-2.0

//! Texts that knobs must refuse.

/// Texts that are not a number, whatever the allowed range.
pub fn no_numbers() -> Vec<Vec<u8>> {
    let texts = [
        "\n",
        "\n\n",
        " ",
        "\t\n",
        "word",
        "-",
        "+",
        "-1",
        "-1\n",
        "-0",
        "+1",
        "1 ",
        " 1",
        "1x",
        "x1",
        "1\n\n",
        "1\n1",
        "1 1",
        "1,1",
        "1.0",
        "0x1",
        "1e3",
        "1\0",
        "1\n\0",
        // If bits above bit 63 were lost, the first text would be 0 and the second one 1.
        "18446744073709551616",
        "18446744073709551617",
        "36893488147419103233",
        "99999999999999999999999999999999999999999",
    ];
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    all.push(vec![b'1'; 4096]);
    all.push(vec![b'x'; 4096]);
    all.push(vec![b' '; 4096]);
    all.push(vec![b'\n'; 4096]);
    all.push(vec![0xff; 8]);
    all
}

/// Texts that resemble the given words but equal none of them.
pub fn no_words(words: &[&str]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for word in words {
        let texts = [
            word[..word.len() - 1].to_owned(),
            format!("{word}x"),
            format!(" {word}"),
            format!("{word} "),
            format!("{word}\n\n"),
            format!("{word}\0"),
            format!("[{word}]"),
            word.to_uppercase(),
            format!("{word} {}", words[0]),
        ];
        all.extend(texts.map(String::into_bytes));
    }
    all.extend(["\n", " ", "none", "0", "1", "-1"].map(|text| text.as_bytes().to_vec()));
    all.push(vec![b'a'; 4096]);
    all.push(words[0].repeat(4096).into_bytes()[..4096].to_vec());
    all
}

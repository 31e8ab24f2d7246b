// SPDX-License-Identifier: GPL-2.0

//! Programs that register memory with KSM.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::lab::Lab;
use guest::lab::TestOf;
use guest::memory::content;
use guest::process::program;
use guest::process::program::Daemon;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use super::CONTENTS;

pub const TESTS: &[TestOf<Server>] = tests![
    qemu_has_the_ram_of_its_guest_merged,
    stress_ng_runs_with_merged_memory,
];

const TIMEOUT: Duration = task::PATIENCE;

/// A QEMU whose guest is stopped. Its name contains the texts that ksmtuned looks for: qemu-system
/// and -enable-kvm.
const QEMU: &str =
    "qemu-system-x86_64 -name guest-enable-kvm -accel tcg -S -nodefaults -display none";

/// Starts QEMU with all of its guest's RAM in use.
pub fn start_qemu(mib: u64) -> Result<Daemon> {
    let ram = format!(
        "-m {mib} -object memory-backend-ram,id=ram,size={mib}M,prealloc=on \
         -machine pc,memory-backend=ram"
    );
    Daemon::start("qemu", &mut program::command(&format!("{QEMU} {ram}")))
}

/// Writes a file with `copies` pages of each content. RAM of zeros would not do: when the kernel
/// splits a huge page, it maps the shared zero page by itself.
fn write_image(path: &str, copies: u64) -> Result {
    let mut image = File::create(path).context(|| path.to_owned())?;
    for index in 0..copies * CONTENTS {
        let words = content::page(1 + index % CONTENTS);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.write_all(&bytes).context(|| path.to_owned())?;
    }
    Ok(())
}

/// QEMU registers its guest's RAM by itself.
fn qemu_has_the_ram_of_its_guest_merged(_: &Lab, server: Server) -> Result {
    const COPIES: u64 = 8;
    let ksm = Mainline::of(server)?;
    write_image("image", COPIES)?;
    let loader = "-m 32 -device loader,file=image,addr=0x100000,force-raw=on";
    let qemu = Daemon::start("qemu", &mut program::command(&format!("{QEMU} {loader}")))?;
    ksm.set("run", 1)?;
    expect_sharing(&ksm, (COPIES - 1) * CONTENTS, || qemu.output())
}

fn expect_sharing(ksm: &Mainline, least: u64, log: impl Fn() -> String) -> Result {
    let merged = || {
        ksm.number("pages_sharing")
            .is_ok_and(|found| found >= least)
    };
    expect::that(task::wait_until(TIMEOUT, merged), || {
        let found = ksm.number("pages_sharing");
        format!(
            "pages_sharing: expected {least} or more, found {found:?}: {}",
            log()
        )
    })
}

/// Two processes fill their memory with one word, wait, and start again with another word. Without
/// these options, stress-ng picks random advice, including `MADV_UNMERGEABLE`.
fn stress_ng_runs_with_merged_memory(_: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let stress = Daemon::start(
        "stress-ng",
        &mut program::command(
            "stress-ng --ksm --vm 2 --vm-bytes 16m --vm-method write64 --vm-madvise mergeable \
             --vm-hang 3 --timeout 60",
        ),
    )?;
    expect_sharing(&ksm, 1000, || stress.output())?;
    expect::eq("run, which stress-ng writes", 1, ksm.number("run")?)?;
    stress.finish(TIMEOUT)
}

//! The guests on an emulated PC: Debian's generic kernel through SeaBIOS and GRUB, its devices reached in several ways.

use super::io::{Course, OPTIONS, Pace, blank};
use super::linux::perform_fenced;
use super::{Arguments, Row};
use crate::demo;
use crate::failure::{Failure, Result};
use std::fs;
use std::path::Path;

/// How the PC's disks and card are reached once Linux runs.
struct Pc {
    course: Course,
    platform: u8,
    /// The emulated card.
    card: &'static str,
    /// Words of the kernel's command line.
    words: &'static str,
}

const EMULATED: Course = Course {
    names: ["ide", "e1000"],
    disk: "/dev/sdb",
    limits: |way| way.emulated,
    pace: Pace::Fewer,
    single: true,
    network: true,
};

const PCS: [Pc; 3] = [
    // Drives with their bus master, and an e1000.
    Pc { course: EMULATED, platform: 0, card: "e1000", words: "quiet" },
    // Each word of the drives and of the card's memory through a port.
    Pc {
        course: Course { names: ["pio", "ne2000"], limits: |_| None, pace: Pace::Slow, ..EMULATED },
        platform: 0,
        card: "ne2k_pci",
        words: "quiet libata.dma=0",
    },
    // Linux takes the emulated devices away and uses the split ones.
    Pc {
        course: Course {
            names: ["pvhvm", "pvhvm"],
            disk: "/dev/xvdb",
            limits: |_| None,
            single: false,
            ..EMULATED
        },
        platform: 1,
        card: "e1000",
        words: "quiet root=/dev/xvda1",
    },
];

/// Measures them. `image` becomes the disk that is measured.
pub(super) fn measure(
    instance: &str,
    arguments: &Arguments,
    image: &Path,
    unit: &'static str,
    rows: &mut Vec<Row>,
    failed: &mut Vec<String>,
) -> Result<()> {
    for pc in &PCS {
        blank(image)?;
        let boot = image.with_file_name("io-pc.raw");
        demo::pc(&boot, &pc.course.script("/root/probe"), pc.words)?;
        let text = format!(
            "name = \"measuring\"\ntype = \"hvm\"\nmemory = 192\nserial = \"pty\"\nboot = \"c\"\nxen_platform_pci = {}\n\
             disk = [ '{},raw,hda,rw', '{},raw,hdb,rw,backendtype=ram' ]\nvif = [ 'bridge=xenbr0,model={}' ]\n",
            pc.platform,
            boot.display(),
            image.display(),
            pc.card,
        );
        let file = image.with_file_name("io-pc.cfg");
        fs::write(&file, text).map_err(|e| Failure::file("write", &file, &e))?;
        let run =
            perform_fenced(instance, arguments, "io", &OPTIONS, |_| Ok(vec![file.display().to_string()]))?;
        pc.course.take(&run, unit, rows, failed);
    }
    Ok(())
}

//! Linux kernel modules in the order in which they can be loaded, by what each says of itself (its `.modinfo` section).

use crate::failure::{Failure, Result};
use elf::ElfBytes;
use elf::endian::LittleEndian;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of `wanted` under `folder` and of all that they depend on, dependencies first.
pub(crate) fn in_order(folder: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut known = HashMap::new();
    find(folder, &mut known).map_err(|e| Failure::file("read the modules in", folder, &e))?;
    let mut order = Vec::new();
    for name in wanted {
        add(&canonical(name), folder, &known, &mut order)?;
    }
    Ok(order)
}

fn add(name: &str, folder: &Path, known: &HashMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<()> {
    let Some(path) = known.get(name) else {
        return Err(Failure::usage(format!("the kernel's modules in {} have no {name}", folder.display())));
    };
    if order.contains(path) {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(|e| Failure::file("read the module", path, &e))?;
    for needed in depends(&bytes) {
        add(&needed, folder, known, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The names after `depends=`.
fn depends(module: &[u8]) -> Vec<String> {
    let Ok(file) = ElfBytes::<LittleEndian>::minimal_parse(module) else { return Vec::new() };
    let Ok(Some(section)) = file.section_header_by_name(".modinfo") else { return Vec::new() };
    let Ok((bytes, _)) = file.section_data(&section) else { return Vec::new() };
    let lines = bytes.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
    let depends = lines.filter_map(|line| line.strip_prefix("depends="));
    depends.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(canonical).collect()
}

/// In file names '-' and '_' are the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn find(folder: &Path, known: &mut HashMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, known)?;
        } else if path.extension().is_some_and(|extension| extension == "ko")
            && let Some(name) = path.file_stem()
        {
            known.insert(canonical(&name.to_string_lossy()), path);
        }
    }
    Ok(())
}

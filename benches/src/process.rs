//! What the kernel's books say of a process: CPU time by thread, memory, children.

use std::collections::BTreeMap;
use std::{fs, io};

/// CPU seconds by the name of the thread; threads of one name are added up.
pub type Cpu = BTreeMap<String, f64>;

/// The CPU time that the living threads of `pids` have used so far, to the nanosecond.
///
/// # Errors
/// If a process has gone.
pub fn cpu(pids: &[u32]) -> io::Result<Cpu> {
    let mut used = Cpu::new();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may end while we look.
            let (Ok(name), Ok(books)) =
                (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("schedstat")))
            else {
                continue;
            };
            let nanoseconds: f64 = books.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0.0);
            *used.entry(name.trim().to_owned()).or_default() += nanoseconds / 1e9;
        }
    }
    Ok(used)
}

/// What was used between two readings; threads that ended in between count as nothing.
pub fn cpu_between(before: &Cpu, after: &Cpu) -> Cpu {
    let used = after
        .iter()
        .map(|(name, used)| (name.clone(), (used - before.get(name).copied().unwrap_or_default()).max(0.0)));
    used.collect()
}

/// The resident memory of `pids` together, in megabytes of 10^6 bytes.
///
/// # Errors
/// If a process has gone.
pub fn resident_megabytes(pids: &[u32]) -> io::Result<f64> {
    let mut kilobytes = 0.0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let of_one: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
        kilobytes += of_one;
    }
    Ok(kilobytes * 1024.0 / 1e6)
}

/// A process and its present children, as a server of several processes has them.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut family = vec![pid];
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(other) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if parent_of(other) == Some(pid) {
            family.push(other);
        }
    }
    Ok(family)
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets and may hold blanks; state and parent follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_books_of_this_process() {
        let own = [std::process::id()];
        let before = cpu(&own).unwrap();
        let mut sum = 0_u64;
        while cpu_between(&before, &cpu(&own).unwrap()).values().sum::<f64>() < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(resident_megabytes(&own).unwrap() > 1.0);
        assert_eq!(family(own[0]).unwrap()[0], own[0]);
    }
}

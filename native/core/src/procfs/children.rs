//! The direct children of a process.

use crate::os::error::{Error, Result};
use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::procfs::listing::{LISTING, each_process};
use crate::procfs::text::words;

impl Host {
    /// Returns the direct children in ascending order.
    ///
    /// They come from each thread's `children` file. If the kernel lacks that file, they come
    /// from the parent of every process.
    ///
    /// The list is exact only while nothing forks (proc(5)); otherwise it is a snapshot.
    ///
    /// # Errors
    ///
    /// `Gone` if there is no such process.
    pub fn children(&self, pid: Pid) -> Result<Vec<Pid>> {
        let mut buffer = Vec::new();
        self.stat(pid, &mut buffer).map_err(|errno| Error::of_process(errno).about(pid))?;
        let mut children = match self.children_files(pid) {
            Some(children) => children,
            None => self.children_by_parent(pid)?,
        };
        children.sort_unstable();
        children.dedup();
        Ok(children)
    }

    fn children_files(&self, pid: Pid) -> Option<Vec<Pid>> {
        let mut buffer = Vec::new();
        let mut children = Vec::new();
        let tasks = std::fs::read_dir(self.proc().path().join(format!("{pid}/task"))).ok()?;
        for task in tasks {
            let name = task.ok()?.file_name();
            let path = format!("{pid}/task/{}/children", name.to_str()?);
            match self.proc().read(&path, 1 << 20, &mut buffer) {
                Ok(_) => children.extend(words(&buffer).filter_map(Pid::parse)),
                // A thread that ended meanwhile gave its children to another thread. If no thread
                // has this file, the kernel lacks it.
                Err(_)
                    if self.proc().read("thread-self/children", 16, &mut Vec::new()).is_ok() => {}
                Err(_) => return None,
            }
        }
        Some(children)
    }

    fn children_by_parent(&self, pid: Pid) -> Result<Vec<Pid>> {
        let mut buffer = Vec::new();
        let mut children = Vec::new();
        each_process(self, LISTING, |candidate| {
            if self.stat(candidate, &mut buffer).is_ok_and(|stat| stat.parent == Some(pid)) {
                children.push(candidate);
            }
            std::ops::ControlFlow::Continue(())
        })
        .map_err(Error::of_file)?;
        Ok(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_the_same_children() {
        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let pid = Pid::from_u32(child.id()).unwrap();
        let host = Host::current().unwrap();
        let by_parent = host.children_by_parent(Pid::current()).unwrap();
        let by_file = host.children(Pid::current()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(by_parent.contains(&pid) && by_file.contains(&pid));
        assert!(host.children(pid).unwrap_err().is_gone());
    }
}

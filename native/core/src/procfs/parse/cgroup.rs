//! Parses `/proc/<pid>/cgroup`: the control groups that a process is in.

/// Returns the control group that tells services and sessions apart (cgroups(7)).
///
/// This is the path of version 2. If that is the root, it is the path of systemd's own hierarchy
/// of version 1.
///
/// Returns `None` if both are the root. Every process of the machine or container is there, so
/// the root tells nothing apart.
pub(crate) fn service(text: &[u8]) -> Option<&[u8]> {
    let below_root = |path: &&[u8]| path.len() > 1;
    let systemds = || path_in(text, b"name=systemd").filter(below_root);
    version_2(text).filter(below_root).or_else(systemds)
}

/// Returns the path in the hierarchy of version 2, as seen from the root of this cgroup
/// namespace.
pub(crate) fn version_2(text: &[u8]) -> Option<&[u8]> {
    path_in(text, b"")
}

/// Returns the path in the hierarchy of these controllers.
fn path_in<'a>(text: &'a [u8], controllers: &[u8]) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        let (named, path) = (fields.next()?, fields.next()?);
        (named == controllers && path.first() == Some(&b'/')).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_2_counts_before_systemds_own_hierarchy() {
        let table: [(&[u8], Option<&[u8]>); 8] = [
            (b"0::/system.slice/app.service\n", Some(b"/system.slice/app.service")),
            (b"9:name=systemd:/a.service\n0::/\n", Some(b"/a.service")),
            (b"9:name=systemd:/a.service\n0::/b.scope\n", Some(b"/b.scope")),
            (b"4:memory:/limits\n9:name=systemd:/\n0::/\n", None),
            (b"0::/a:b\n", Some(b"/a:b")),
            (b"0::\n", None),
            (b"0\n:\n", None),
            (b"", None),
        ];
        for (text, path) in table {
            assert_eq!(service(text), path, "{}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = service(&text);
        }
    }
}

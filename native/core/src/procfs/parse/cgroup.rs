//! Parses `/proc/<pid>/cgroup`: the service or session that a process is part of.

/// Returns the control group that tells services and sessions apart (cgroups(7)).
///
/// This is the path of version 2. If that is the root, it is the path of systemd's own hierarchy
/// of version 1.
///
/// Returns `None` if both are the root. Every process of the machine or container is there, so
/// the root tells nothing apart.
pub(crate) fn service(text: &[u8]) -> Option<&[u8]> {
    let path_in = |controllers: &[u8]| {
        text.split(|&byte| byte == b'\n').find_map(|line| {
            let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
            let (named, path) = (fields.next()?, fields.next()?);
            (named == controllers && path.len() > 1).then_some(path)
        })
    };
    path_in(b"").or_else(|| path_in(b"name=systemd"))
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

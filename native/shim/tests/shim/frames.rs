//! Reads report frames, from native/PROTOCOL.md alone.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Ready { protocol: u8, pid: u32, mark: u8, errno: u16, flags: u8 },
    Started { pid: u32 },
    Attached { pid: u32, marked: u32, unmarked: u32 },
    StartFailed { stage: u8, errno: u16 },
    Step { cause: u8, index: u8, signal: u8, ms: u32 },
    Exited { how: u8, status: u8 },
    Gone(Gone),
    Command { index: u8, how: u8, status: u8, errno: u16 },
    Spawned { pid: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub how: u8,
    pub status: u8,
    pub cause: u8,
    pub last: u8,
    pub ms: u32,
    pub passes: u32,
    pub steps: Vec<(u8, u8, u32)>,
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u8(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("long enough");
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }
}

pub fn all(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [high, low, rest @ ..] = bytes {
        let len = usize::from(*high) << 8 | usize::from(*low);
        let (payload, rest) = rest.split_at(len);
        frames.push(one(payload));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "frames are whole");
    frames
}

fn one(payload: &[u8]) -> Frame {
    let mut fields = Fields(payload);
    let f = &mut fields;
    let frame = match f.u8() {
        1 => Frame::Ready {
            protocol: f.u8(),
            pid: f.u32(),
            mark: f.u8(),
            errno: f.u16(),
            flags: f.u8(),
        },
        2 if payload.len() > 5 => {
            Frame::Attached { pid: f.u32(), marked: f.u32(), unmarked: f.u32() }
        }
        2 => Frame::Started { pid: f.u32() },
        3 => Frame::StartFailed { stage: f.u8(), errno: f.u16() },
        4 => Frame::Step { cause: f.u8(), index: f.u8(), signal: f.u8(), ms: f.u32() },
        5 => Frame::Exited { how: f.u8(), status: f.u8() },
        6 => {
            let (how, status, cause, last) = (f.u8(), f.u8(), f.u8(), f.u8());
            let (ms, passes, count) = (f.u32(), f.u32(), f.u8());
            let steps = (0..count).map(|_| (f.u8(), f.u8(), f.u32())).collect();
            Frame::Gone(Gone { how, status, cause, last, ms, passes, steps })
        }
        7 => Frame::Command { index: f.u8(), how: f.u8(), status: f.u8(), errno: f.u16() },
        8 => Frame::Spawned { pid: f.u32() },
        kind => panic!("unknown kind {kind}"),
    };
    assert!(fields.0.is_empty(), "nothing follows: {frame:?}");
    frame
}

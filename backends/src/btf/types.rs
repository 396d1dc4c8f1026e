//! The BTF format, as much of it as finding members by name needs.

/// `BTF_KIND_*`, include/uapi/linux/btf.h.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const LAST: u32 = ENUM64;
}

/// `struct btf_type`: name, info, size or type. Members of structs are as large.
const TYPE_SIZE: usize = 12;
const MEMBER_SIZE: usize = 12;

/// Types nest far less deep; keeps a malformed blob from recursing for ever.
const MAX_DEPTH: u32 = 16;

/// All types of a BTF blob, found but not decoded.
pub(super) struct Types<'a> {
    section: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; the first has id 1.
    starts: Vec<u32>,
}

/// Where a member lies in the struct it was searched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Offset in bits.
    pub(super) bits: u32,
    /// Size in bits when it is a bit-field, else 0.
    pub(super) width: u32,
    id: u32,
}

impl Member {
    pub(super) fn byte(self) -> u32 {
        self.bits / 8
    }
}

/// A type's fixed part.
#[derive(Clone, Copy)]
struct Head {
    name: u32,
    info: u32,
    /// Of a type that refers to another one: which.
    target: u32,
}

impl Head {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// How many members, values or parameters follow.
    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether member offsets carry the size of a bit-field in their upper byte.
    fn has_bit_fields(self) -> bool {
        self.info >> 31 == 1
    }

    /// Size with what follows; `None` for a kind that is newer than this program.
    fn size(self) -> Option<usize> {
        let rest = match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => self.count() * 12,
            kind::ENUM | kind::FUNC_PROTO => self.count() * 8,
            other if other <= kind::LAST => 0,
            _ => return None,
        };
        Some(TYPE_SIZE + rest)
    }
}

impl<'a> Types<'a> {
    /// Indexes a blob in the byte order of this machine.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, String> {
        const MAGIC: u32 = 0xeb9f;
        let word = |at| u32_at(data, at).ok_or("the header is too short");
        if word(0)? & 0xffff != MAGIC {
            return Err("it does not begin with the magic number".into());
        }
        let header = word(4)? as usize;
        let section = |offset, length| -> Result<&'a [u8], String> {
            let start = header + word(offset)? as usize;
            data.get(start..start + word(length)? as usize)
                .ok_or_else(|| "a section reaches beyond its end".into())
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);

        // A type takes 36 bytes on average in a kernel.
        let mut starts = Vec::with_capacity(types.len() / 32);
        let mut at = 0;
        while at < types.len() {
            let head = head(types, at).ok_or("a type is cut off")?;
            starts.push(at as u32);
            at += head.size().ok_or_else(|| format!("type kind {} is unknown", head.kind()))?;
        }
        Ok(Self { section: types, strings, starts })
    }

    /// The ids of structs by name.
    pub(super) fn structs<const N: usize>(&self, names: [&str; N]) -> [Option<u32>; N] {
        self.by_name(kind::STRUCT, names)
    }

    /// Whether anything in the kernel has this name; for enumerators.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.strings.split(|&byte| byte == 0).any(|known| known == name.as_bytes())
    }

    /// The ids of functions by name.
    pub(super) fn functions<const N: usize>(&self, names: [&str; N]) -> [Option<u32>; N] {
        self.by_name(kind::FUNC, names)
    }

    fn by_name<const N: usize>(&self, kind: u32, names: [&str; N]) -> [Option<u32>; N] {
        let mut found = [None; N];
        for (index, &start) in self.starts.iter().enumerate() {
            let Some(head) = head(self.section, start as usize) else { continue };
            if head.kind() != kind {
                continue;
            }
            for (name, found) in names.iter().zip(&mut found) {
                if found.is_none() && self.is_named(head.name, name) {
                    *found = Some(index as u32 + 1);
                }
            }
        }
        found
    }

    /// Follows member names from a struct; members of anonymous structs and unions count as
    /// those of the struct around them, as in C.
    pub(super) fn member(&self, id: u32, path: &[&str]) -> Option<Member> {
        let mut at = Member { bits: 0, width: 0, id };
        for name in path {
            let next = self.direct_member(at.id, name, 0)?;
            at = Member { bits: at.bits + next.bits, ..next };
        }
        Some(at)
    }

    fn direct_member(&self, id: u32, name: &str, depth: u32) -> Option<Member> {
        let (start, head) = self.resolve(id)?;
        if !matches!(head.kind(), kind::STRUCT | kind::UNION) || depth > MAX_DEPTH {
            return None;
        }
        (0..head.count()).find_map(|index| {
            let at = start + TYPE_SIZE + index * MEMBER_SIZE;
            let [member_name, id, offset] =
                [0, 4, 8].map(|field| u32_at(self.section, at + field).unwrap_or(0));
            let (bits, width) = if head.has_bit_fields() {
                (offset & 0xff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            if self.is_named(member_name, name) {
                return Some(Member { bits, width, id });
            }
            if !self.is_named(member_name, "") {
                return None;
            }
            let inner = self.direct_member(id, name, depth + 1)?;
            Some(Member { bits: bits + inner.bits, ..inner })
        })
    }

    /// The type itself behind typedefs and qualifiers, with where it begins.
    fn resolve(&self, mut id: u32) -> Option<(usize, Head)> {
        for _ in 0..MAX_DEPTH {
            let start = *self.starts.get((id as usize).checked_sub(1)?)? as usize;
            let head = head(self.section, start)?;
            match head.kind() {
                kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::TYPE_TAG => id = head.target,
                _ => return Some((start, head)),
            }
        }
        None
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn head(types: &[u8], at: usize) -> Option<Head> {
    Some(Head {
        name: u32_at(types, at)?,
        info: u32_at(types, at + 4)?,
        target: u32_at(types, at + 8)?,
    })
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a blob type by type.
    struct Blob {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Blob {
        fn new() -> Self {
            Self { types: Vec::new(), strings: vec![0] }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn add(&mut self, kind: u32, name: &str, target: u32, rest: &[u32]) {
            let name = self.name(name);
            self.types.extend([name, kind << 24, target]);
            self.types.extend(rest);
        }

        /// Members as (name, type, offset), where the offset has the width of a bit-field in
        /// its upper byte.
        fn aggregate(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) {
            let name = self.name(name);
            let info = 1 << 31 | kind << 24 | members.len() as u32;
            self.types.extend([name, info, 64]);
            for &(name, id, offset) in members {
                let name = self.name(name);
                self.types.extend([name, id, offset]);
            }
        }

        fn finish(self) -> Vec<u8> {
            let types: Vec<u8> =
                self.types.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let lengths = (types.len() as u32, self.strings.len() as u32);
            let header = [0x1_eb9f, 24, 0, lengths.0, lengths.0, lengths.1];
            let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
            blob.extend(types);
            blob.extend(self.strings);
            blob
        }
    }

    fn sample() -> Vec<u8> {
        let mut blob = Blob::new();
        blob.add(kind::INT, "int", 4, &[32]); // 1
        blob.aggregate(kind::STRUCT, "inner", &[("x", 1, 0), ("y", 1, 3 << 24 | 0x25)]); // 2
        blob.add(kind::TYPEDEF, "inner_t", 2, &[]); // 3
        blob.add(kind::CONST, "", 3, &[]); // 4
        blob.aggregate(kind::STRUCT, "", &[("deep", 1, 32)]); // 5
        blob.aggregate(kind::UNION, "", &[("other", 1, 0), ("", 5, 64)]); // 6
        blob.aggregate(kind::STRUCT, "outer", &[("a", 1, 0), ("", 6, 128), ("inner", 4, 512)]); // 7
        blob.add(kind::ARRAY, "", 0, &[1, 1, 4]); // 8
        blob.add(kind::FUNC, "outer", 0, &[]); // 9
        blob.finish()
    }

    #[test]
    fn finds_members() {
        let blob = sample();
        let types = Types::parse(&blob).unwrap();
        let [outer, missing, prefix] = types.structs(["outer", "absent", "oute"]);
        assert_eq!((outer, missing, prefix), (Some(7), None, None));
        assert_eq!(types.functions(["outer", "inner"]), [Some(9), None]);

        let at =
            |path: &[&str]| types.member(7, path).map(|member| (member.bits, member.width));
        assert_eq!(at(&["a"]), Some((0, 0)));
        assert_eq!(at(&["other"]), Some((128, 0)));
        assert_eq!(at(&["deep"]), Some((128 + 64 + 32, 0)), "through two anonymous ones");
        assert_eq!(at(&["inner", "x"]), Some((512, 0)), "through typedef and const");
        assert_eq!(at(&["inner", "y"]), Some((512 + 0x25, 3)), "a bit-field");
        assert_eq!(at(&["x"]), None, "named structs are not looked into");
        assert_eq!(at(&["a", "x"]), None, "an int has no members");
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let blob = sample();
        assert!(Types::parse(&[]).is_err());
        assert!(Types::parse(&blob[..20]).is_err());
        assert!(Types::parse(&blob[..blob.len() - 1]).is_err());
        assert!(Types::parse(&[0; 64]).is_err());
        let mut unknown = Blob::new();
        unknown.add(31, "future", 0, &[]);
        assert!(Types::parse(&unknown.finish()).is_err());
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let mut blob = Blob::new();
        blob.aggregate(kind::STRUCT, "loop", &[("", 1, 0)]);
        blob.add(kind::TYPEDEF, "alias", 2, &[]);
        let blob = blob.finish();
        let types = Types::parse(&blob).unwrap();
        assert_eq!(types.member(1, &["x"]), None);
        assert_eq!(types.member(2, &["x"]), None);
    }
}

//! Terms from the core's plain structs.
//!
//! rustler has a serde serializer, but it gives every map a `__struct__` that is not a module.
//! Its keys and variants become strings or atoms, depending on the atoms that the VM happens to
//! know. Here a name from the source always becomes an atom, and data from the machine always
//! becomes a binary.
//!
//! | Rust | Elixir |
//! |---|---|
//! | struct, struct variant | map with atom keys; a struct variant is `{:variant, map}` |
//! | unit variant | atom |
//! | newtype variant | `{:variant, value}` |
//! | newtype struct | its value |
//! | `Option` | value or `nil` |
//! | string, char, bytes | binary |
//! | sequence | list |
//! | tuple | tuple |

use rustler::{Atom, Encoder, Env, NewBinary, Term};
use serde::ser::{self, Serialize};
use std::fmt;

/// Returns the term of a value.
pub(crate) fn term<'a>(env: Env<'a>, value: &impl Serialize) -> Result<Term<'a>, Unencodable> {
    value.serialize(Terms { env })
}

/// A value that has no term: a name longer than an atom, or a value that its `Serialize` refused.
#[derive(Debug)]
pub(crate) struct Unencodable;

impl fmt::Display for Unencodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value has no term")
    }
}

impl std::error::Error for Unencodable {}

impl ser::Error for Unencodable {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self
    }
}

type Encoded<'a> = Result<Term<'a>, Unencodable>;

/// Returns the atom of a name from the source. Other names must not come here, because an atom is
/// never collected.
fn atom<'a>(env: Env<'a>, name: &'static str) -> Encoded<'a> {
    Atom::from_bytes(env, name.as_bytes()).map(|atom| atom.encode(env)).map_err(|_| Unencodable)
}

#[derive(Clone, Copy)]
struct Terms<'a> {
    env: Env<'a>,
}

struct Items<'a> {
    env: Env<'a>,
    variant: Option<&'static str>,
    items: Vec<Term<'a>>,
    shape: Shape,
}

enum Shape {
    List,
    Tuple,
}

struct Pairs<'a> {
    env: Env<'a>,
    variant: Option<&'static str>,
    keys: Vec<Term<'a>>,
    values: Vec<Term<'a>>,
}

impl<'a> Terms<'a> {
    fn items(self, variant: Option<&'static str>, shape: Shape) -> Items<'a> {
        Items { env: self.env, variant, items: Vec::new(), shape }
    }

    fn pairs(self, variant: Option<&'static str>) -> Pairs<'a> {
        Pairs { env: self.env, variant, keys: Vec::new(), values: Vec::new() }
    }
}

impl<'a> Items<'a> {
    fn push(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Unencodable> {
        self.items.push(value.serialize(Terms { env: self.env })?);
        Ok(())
    }

    fn finish(self) -> Encoded<'a> {
        let whole = match self.shape {
            Shape::List => self.items.encode(self.env),
            Shape::Tuple => rustler::types::tuple::make_tuple(self.env, &self.items),
        };
        variant_of(self.env, self.variant, whole)
    }
}

impl<'a> Pairs<'a> {
    fn push(
        &mut self,
        key: &'static str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), Unencodable> {
        self.keys.push(atom(self.env, key)?);
        self.values.push(value.serialize(Terms { env: self.env })?);
        Ok(())
    }

    fn finish(self) -> Encoded<'a> {
        let map = Term::map_from_term_arrays(self.env, &self.keys, &self.values)
            .map_err(|_| Unencodable)?;
        variant_of(self.env, self.variant, map)
    }
}

fn variant_of<'a>(env: Env<'a>, variant: Option<&'static str>, value: Term<'a>) -> Encoded<'a> {
    match variant {
        None => Ok(value),
        Some(name) => Ok((atom(env, name)?, value).encode(env)),
    }
}

macro_rules! numbers {
    ($($method:ident: $kind:ty),+) => {
        $(fn $method(self, value: $kind) -> Encoded<'a> {
            Ok(value.encode(self.env))
        })+
    };
}

impl<'a> ser::Serializer for Terms<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Items<'a>;
    type SerializeMap = Pairs<'a>;
    type SerializeStruct = Pairs<'a>;
    type SerializeStructVariant = Pairs<'a>;

    numbers! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32,
        serialize_f64: f64
    }

    fn serialize_char(self, value: char) -> Encoded<'a> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Encoded<'a> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Encoded<'a> {
        Ok(NewBinary::from_slice(self.env, value).into())
    }

    fn serialize_none(self) -> Encoded<'a> {
        atom(self.env, "nil")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Encoded<'a> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Encoded<'a> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Encoded<'a> {
        atom(self.env, name)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Encoded<'a> {
        atom(self.env, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Encoded<'a> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Encoded<'a> {
        let inner = value.serialize(self)?;
        variant_of(self.env, Some(variant), inner)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, Unencodable> {
        Ok(self.items(None, Shape::List))
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'a>, Unencodable> {
        Ok(self.items(None, Shape::Tuple))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a>, Unencodable> {
        Ok(self.items(None, Shape::Tuple))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'a>, Unencodable> {
        Ok(self.items(Some(variant), Shape::Tuple))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Pairs<'a>, Unencodable> {
        Ok(self.pairs(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Pairs<'a>, Unencodable> {
        Ok(self.pairs(None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Pairs<'a>, Unencodable> {
        Ok(self.pairs(Some(variant)))
    }
}

impl<'a> ser::SerializeSeq for Items<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unencodable> {
        self.push(value)
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

impl<'a> ser::SerializeTuple for Items<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unencodable> {
        self.push(value)
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

impl<'a> ser::SerializeTupleStruct for Items<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unencodable> {
        self.push(value)
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

impl<'a> ser::SerializeTupleVariant for Items<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unencodable> {
        self.push(value)
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

impl<'a> ser::SerializeMap for Pairs<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    // Keys of maps may come from the machine, so they are never atoms.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unencodable> {
        self.keys.push(key.serialize(Terms { env: self.env })?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unencodable> {
        self.values.push(value.serialize(Terms { env: self.env })?);
        Ok(())
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

impl<'a> ser::SerializeStruct for Pairs<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unencodable> {
        self.push(key, value)
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

impl<'a> ser::SerializeStructVariant for Pairs<'a> {
    type Ok = Term<'a>;
    type Error = Unencodable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unencodable> {
        self.push(key, value)
    }

    fn end(self) -> Encoded<'a> {
        self.finish()
    }
}

//! Arrays longer than serde knows by itself, as sequences.

use serde::{Deserialize as _, Deserializer, Serialize, Serializer, de::Error as _};

pub(crate) fn serialize<S: Serializer, const N: usize>(array: &[f32; N], serializer: S) -> Result<S::Ok, S::Error> {
    array.as_slice().serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[f32; N], D::Error> {
    let values = Vec::<f32>::deserialize(deserializer)?;
    let count = values.len();
    values.try_into().map_err(|_| D::Error::invalid_length(count, &"as many numbers as were written"))
}

//! `kv` while a version moves what is remembered: one memory, as a copy.

use super::{
    bindings::parlour::plugin::kv::Scope,
    error,
    kv::{KEY, LIST, VALUE},
    types::{Error, ErrorKind},
};
use crate::{grant::Denied, journal, migration::Values};

/// The memory that is moved.
pub struct Moving {
    scope: Scope,
    /// What there is by now.
    pub values: Values,
    /// Whether the plugin may remember at all.
    holds: Result<(), Denied>,
    size: u64,
    /// Bytes that it may have meanwhile.
    largest: u64,
}

impl Moving {
    /// A copy of what is remembered, which may become so large.
    pub fn new(scope: &journal::Scope, values: Values, holds: Result<(), Denied>, largest: u64) -> Self {
        let scope = match scope {
            journal::Scope::Room(_) => Scope::Room,
            journal::Scope::User(_) => Scope::User,
            journal::Scope::Session(_) => Scope::Session,
            journal::Scope::Plugin | journal::Scope::Sealed { .. } => Scope::Plugin,
        };
        let size = values.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        Self { scope, values, holds, size, largest: largest.max(size) }
    }

    fn may(&self, scope: Scope) -> Result<(), Error> {
        self.holds.map_err(|denied| error(ErrorKind::Denied, denied.to_string()))?;
        if scope != self.scope {
            return Err(error(ErrorKind::Unsupported, "another memory is being moved"));
        }
        Ok(())
    }

    pub fn get(&self, scope: Scope, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.may(scope)?;
        Ok(self.values.get(valid(key)?).cloned())
    }

    pub fn put(&mut self, scope: Scope, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        self.may(scope)?;
        let size = |value: &Vec<u8>| (key.len() + value.len()) as u64;
        let before = self.values.get(valid(key)?).map_or(0, size);
        let added = value.as_ref().map_or(0, size);
        if value.as_ref().is_some_and(|value| value.len() > VALUE) {
            return Err(error(ErrorKind::TooLarge, "a value has at most 256 KiB"));
        }
        let after = self.size - before + added;
        if after > self.largest && added > before {
            let line = format!("this plugin remembers at most {} bytes", self.largest);
            return Err(error(ErrorKind::TooLarge, line));
        }
        match value {
            Some(value) => self.values.insert(key.to_owned(), value),
            None => self.values.remove(key),
        };
        self.size = after;
        Ok(())
    }

    pub fn keys(
        &self,
        scope: Scope,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, Error> {
        self.may(scope)?;
        let keys = self.values.keys().filter(|key| key.starts_with(prefix));
        let keys = keys.filter(|key| after.is_none_or(|after| key.as_str() > after));
        Ok(keys.take(limit.min(LIST) as usize).cloned().collect())
    }

    pub fn add(&mut self, scope: Scope, key: &str, by: i32) -> Result<i32, Error> {
        let sum = super::kv::sum(self.get(scope, key)?, by)?;
        self.put(scope, key, Some(sum.to_string().into_bytes()))?;
        Ok(sum)
    }
}

fn valid(key: &str) -> Result<&str, Error> {
    if key.is_empty() || key.len() > KEY {
        return Err(error(ErrorKind::Invalid, "a key has 1 to 512 bytes"));
    }
    Ok(key)
}

//! A map with a weight limit that forgets what was used longest ago.
//!
//! Eviction drops an eighth of the entries at once, so its scan is amortised and no list has to be kept per access.

use std::hash::Hash;

use hashbrown::HashMap;

struct Slot<V> {
    value: V,
    weight: usize,
    last_use: u64,
}

/// The map. The sum of the weights never stays above the limit after an insertion.
pub(crate) struct Lru<K, V> {
    slots: HashMap<K, Slot<V>>,
    limit: usize,
    weight: usize,
    clock: u64,
    /// The clock at the last sweep.
    swept: u64,
    evictions: u64,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: HashMap::new(), limit, weight: 0, clock: 0, swept: 0, evictions: 0 }
    }

    /// The value of `key`, which counts as a use.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.clock += 1;
        let slot = self.slots.get_mut(key)?;
        slot.last_use = self.clock;
        Some(&slot.value)
    }

    /// Sets `key`; returns what had to go for it, the replaced value included. What is heavier than the limit does not
    /// stay and drives nothing else out.
    pub(crate) fn insert(&mut self, key: K, value: V, weight: usize) -> Vec<V> {
        if weight > self.limit {
            return self.remove(&key).into_iter().chain([value]).collect();
        }
        self.clock += 1;
        let slot = Slot { value, weight, last_use: self.clock };
        self.weight += weight;
        let mut gone = Vec::new();
        if let Some(old) = self.slots.insert(key, slot) {
            self.weight -= old.weight;
            gone.push(old.value);
        }
        if self.weight > self.limit {
            self.evict(&mut gone);
        }
        gone
    }

    /// Removes `key`.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.remove(key)?;
        self.weight -= slot.weight;
        Some(slot.value)
    }

    /// Forgets what was not used since the last sweep.
    pub(crate) fn sweep(&mut self) {
        let (swept, weight) = (self.swept, &mut self.weight);
        self.slots.retain(|_, slot| {
            let used = slot.last_use > swept;
            *weight -= if used { 0 } else { slot.weight };
            used
        });
        self.swept = self.clock;
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    fn evict(&mut self, gone: &mut Vec<V>) {
        let mut by_age: Vec<(u64, K)> = self.slots.iter().map(|(k, s)| (s.last_use, k.clone())).collect();
        by_age.sort_unstable_by_key(|(last_use, _)| *last_use);
        let at_least = by_age.len() / 8;
        for (i, (_, key)) in by_age.into_iter().enumerate() {
            if self.weight <= self.limit && i >= at_least {
                break;
            }
            gone.extend(self.remove(&key));
            self.evictions += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_and_keeps_the_limit() {
        let mut lru = Lru::new(16);
        for key in 0..16 {
            assert!(lru.insert(key, key, 1).is_empty());
        }
        assert_eq!(lru.get(&0), Some(&0));
        let mut gone = lru.insert(16, 16, 1);
        gone.sort_unstable();
        assert_eq!(gone, [1, 2]);
        assert_eq!(lru.get(&0), Some(&0), "a use keeps an entry");
        assert_eq!((lru.len(), lru.weight(), lru.evictions()), (15, 15, 2));
    }

    #[test]
    fn an_entry_heavier_than_the_limit_does_not_stay() {
        let mut lru = Lru::new(10);
        lru.insert("small", 1, 4);
        assert_eq!(lru.insert("huge", 2, 11), [2]);
        assert_eq!(lru.insert("small", 3, 11), [1, 3]);
        assert_eq!((lru.len(), lru.weight()), (0, 0));
    }

    #[test]
    fn a_sweep_forgets_what_was_not_used_since_the_one_before() {
        let mut lru = Lru::new(10);
        lru.insert("used", 1, 4);
        lru.insert("idle", 2, 5);
        lru.sweep();
        assert_eq!(lru.get(&"used"), Some(&1));
        assert_eq!(lru.len(), 2);
        lru.sweep();
        assert_eq!(lru.get(&"used"), Some(&1));
        assert_eq!(lru.get(&"idle"), None);
        assert_eq!(lru.weight(), 4);
    }

    #[test]
    fn replacing_returns_the_old_value() {
        let mut lru = Lru::new(10);
        lru.insert("a", 1, 4);
        assert_eq!(lru.insert("a", 2, 6), [1]);
        assert_eq!(lru.weight(), 6);
    }
}

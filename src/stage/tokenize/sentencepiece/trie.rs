//! A set of byte strings with numbers, walked byte by byte.

use std::collections::VecDeque;

/// Children of a node are a run of edges, in the order of their bytes.
pub struct Trie {
    nodes: Vec<Node>,
    edges: Vec<(u8, u32)>,
    /// Child of the root by its byte: every walk begins there.
    first: Box<[u32; 256]>,
}

#[derive(Clone, Copy)]
struct Node {
    edges: u32,
    count: u32,
    /// [`NONE`] where no string ends.
    value: u32,
}

const NONE: u32 = u32::MAX;

impl Trie {
    /// # Errors
    /// A string that is there twice.
    pub fn new(mut strings: Vec<(Vec<u8>, u32)>) -> Result<Trie, String> {
        strings.sort();
        if let Some(pair) = strings.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("the piece {:?} is there twice", String::from_utf8_lossy(&pair[0].0)));
        }
        let empty = Node { edges: 0, count: 0, value: NONE };
        let mut trie = Trie { nodes: vec![empty], edges: Vec::new(), first: Box::new([NONE; 256]) };
        // Node, its strings, and how many of their bytes lead there.
        let mut open = VecDeque::from([(0_usize, 0..strings.len(), 0_usize)]);
        while let Some((node, mut range, depth)) = open.pop_front() {
            if let Some((text, value)) = strings.get(range.start).filter(|_| !range.is_empty())
                && text.len() == depth
            {
                trie.nodes[node].value = *value;
                range.start += 1;
            }
            trie.nodes[node].edges = trie.edges.len() as u32;
            while !range.is_empty() {
                let byte = strings[range.start].0[depth];
                let same = strings[range.clone()].partition_point(|(text, _)| text[depth] == byte);
                let child = trie.nodes.len();
                trie.nodes.push(empty);
                trie.edges.push((byte, child as u32));
                trie.nodes[node].count += 1;
                open.push_back((child, range.start..range.start + same, depth + 1));
                range.start += same;
            }
        }
        let root = trie.nodes[0];
        for (byte, child) in &trie.edges[..root.count as usize] {
            trie.first[usize::from(*byte)] = *child;
        }
        Ok(trie)
    }

    /// The strings that `text` begins with, short ones first: their lengths and numbers.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        let steps = text.iter().enumerate().map_while(move |(i, byte)| {
            node = self.child(node, *byte)?;
            Some((i + 1, self.nodes[node as usize].value))
        });
        steps.filter(|(_, value)| *value != NONE)
    }

    /// Length of the longest string that `text` begins with.
    pub fn longest(&self, text: &[u8]) -> Option<usize> {
        self.prefixes(text).last().map(|(length, _)| length)
    }

    pub fn get(&self, text: &[u8]) -> Option<u32> {
        let node = text.iter().try_fold(0, |node, byte| self.child(node, *byte))?;
        Some(self.nodes[node as usize].value).filter(|value| *value != NONE)
    }

    #[inline]
    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        if node == 0 {
            return Some(self.first[usize::from(byte)]).filter(|child| *child != NONE);
        }
        let Node { edges, count, .. } = self.nodes[node as usize];
        let edges = &self.edges[edges as usize..(edges + count) as usize];
        let found = match edges.len() {
            0..=8 => edges.iter().find(|(b, _)| *b == byte)?,
            _ => &edges[edges.binary_search_by_key(&byte, |(b, _)| *b).ok()?],
        };
        Some(found.1)
    }
}

//! Finds requests that differ in nothing but contents, such as the bytes of tensors.
//!
//! Nothing here knows what a message means, but for protobuf's wire format: where the values of a
//! map have their contents. All other bytes are compared as they are, so that who understands one
//! request of a group understands them all.

use std::collections::HashMap;
use std::ops::Range;

use http::HeaderMap;

/// What has more entries than this is no simple request.
const MOST_ENTRIES: usize = 16;
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// Where a method's requests have their contents, and what else has to be alike.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The field of the request that is a map of messages.
    pub map: u32,
    /// The fields of these messages that are contents. Any bytes are as good as others there.
    pub contents: Vec<u32>,
    /// The metadata that the answer depends on.
    pub metadata: Vec<String>,
    /// Larger requests are not compared.
    pub most_bytes: usize,
}

/// A content, and what has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Where the key of the map's entry is in the message.
    pub key: Range<usize>,
    /// The field that the content is.
    pub field: u32,
    /// Where the content is in the message.
    pub bytes: Range<usize>,
}

/// A request, cut into contents and all else.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// Equal for requests that differ in nothing but the bytes of contents.
    pub template: Vec<u8>,
    /// At least one, in their order. Requests with equal templates have them at the same places.
    pub contents: Vec<Content>,
}

/// Cut a request; None where it has no contents, or is not of the simple form.
pub fn cut(shape: &Shape, method: usize, headers: &HeaderMap, message: &[u8]) -> Option<Cut> {
    if message.len() > shape.most_bytes {
        return None;
    }
    let contents = contents(shape, message)?;
    if contents.is_empty() {
        return None;
    }
    let mut template = Vec::with_capacity(message.len().min(256) + 16 * shape.metadata.len());
    put(&mut template, method);
    for name in &shape.metadata {
        let mut count = 0;
        for value in headers.get_all(name) {
            count += 1;
            template.extend_from_slice(value.as_bytes());
            put(&mut template, value.len());
        }
        // Lengths and counts come last: read from its end, a template says one thing only.
        put(&mut template, count);
    }
    let mut kept_from = 0;
    for content in &contents {
        template.extend_from_slice(message.get(kept_from..content.bytes.start)?);
        kept_from = content.bytes.end;
    }
    template.extend_from_slice(message.get(kept_from..)?);
    for content in &contents {
        put(&mut template, content.bytes.start);
        put(&mut template, content.bytes.len());
    }
    put(&mut template, contents.len());
    put(&mut template, message.len());
    Some(Cut { template, contents })
}

fn put(template: &mut Vec<u8>, number: usize) {
    template.extend_from_slice(&(number as u64).to_le_bytes());
}

/// What came alike, or alone.
#[derive(Debug)]
pub enum Came<T> {
    /// By itself, or not of the simple form.
    Single(T),
    /// At least two, in their order, with the cut that all of them have.
    Group(Vec<T>, Box<Cut>),
}

/// Put together what came alike, each group where the first of it came.
pub fn grouped<T>(came: impl IntoIterator<Item = (T, Option<Box<Cut>>)>) -> Vec<Came<T>> {
    let mut all: Vec<(Vec<T>, Option<Box<Cut>>)> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for (item, cut) in came {
        let Some(mut cut) = cut else {
            all.push((vec![item], None));
            continue;
        };
        match places
            .get(&cut.template)
            .and_then(|place| all.get_mut(*place))
        {
            Some((items, _)) => items.push(item),
            None => {
                // It comes back below, without a copy.
                places.insert(std::mem::take(&mut cut.template), all.len());
                all.push((vec![item], Some(cut)));
            }
        }
    }
    for (template, place) in places {
        if let Some((_, Some(cut))) = all.get_mut(place) {
            cut.template = template;
        }
    }
    all.into_iter()
        .filter_map(|(mut items, cut)| match cut {
            Some(cut) if items.len() > 1 => Some(Came::Group(items, cut)),
            _ => items.pop().map(Came::Single),
        })
        .collect()
}

fn contents(shape: &Shape, message: &[u8]) -> Option<Vec<Content>> {
    let mut found: Vec<Content> = Vec::new();
    let mut keys: Vec<Range<usize>> = Vec::new();
    let mut fields = Fields::new(message, 0..message.len());
    while let Some(field) = fields.next()? {
        if field.number != shape.map {
            continue;
        }
        let (key, value) = entry(message, field.bytes?)?;
        // Of equal keys protobuf takes the last, or merges them.
        if keys.len() >= MOST_ENTRIES
            || keys
                .iter()
                .any(|k| message.get(k.clone()) == message.get(key.clone()))
        {
            return None;
        }
        keys.push(key.clone());
        if let Some((field, bytes)) = content(shape, message, value)? {
            found.push(Content { key, field, bytes });
        }
    }
    Some(found)
}

/// The key and the value of a map's entry that has each once.
fn entry(message: &[u8], within: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let (mut key, mut value) = (None, None);
    let mut fields = Fields::new(message, within);
    while let Some(field) = fields.next()? {
        let place = match field.number {
            KEY => &mut key,
            VALUE => &mut value,
            _ => return None,
        };
        if place.replace(field.bytes?).is_some() {
            return None;
        }
    }
    Some((key?, value?))
}

/// The only content of a value; the inner None: it has none, or an empty one.
#[allow(clippy::type_complexity)]
fn content(
    shape: &Shape,
    message: &[u8],
    within: Range<usize>,
) -> Option<Option<(u32, Range<usize>)>> {
    let mut found = None;
    let mut fields = Fields::new(message, within);
    while let Some(field) = fields.next()? {
        if !shape.contents.contains(&field.number) {
            continue;
        }
        if found.replace((field.number, field.bytes?)).is_some() {
            return None;
        }
    }
    Some(found.filter(|(_, bytes)| !bytes.is_empty()))
}

struct Field {
    number: u32,
    /// None of a field that is not length-delimited.
    bytes: Option<Range<usize>>,
}

/// Reads the fields of a message as protobuf's writers write them: numbers as short as they can be.
struct Fields<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn new(message: &'a [u8], within: Range<usize>) -> Self {
        Self {
            message,
            at: within.start,
            end: within.end,
        }
    }

    /// The next field, or the inner None at the end; the outer None: it is no such message.
    fn next(&mut self) -> Option<Option<Field>> {
        if self.at >= self.end {
            return Some(None);
        }
        let tag = u32::try_from(self.varint()?).ok()?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        let mut bytes = None;
        match tag & 7 {
            0 => drop(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let start = self.at;
                self.skip(length)?;
                bytes = Some(start..self.at);
            }
            5 => self.skip(4)?,
            _ => return None,
        }
        Some(Some(Field { number, bytes }))
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.at = self.at.checked_add(length).filter(|at| *at <= self.end)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return None;
            }
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                // A zero at the end says nothing.
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            map: 2,
            contents: vec![4, 5],
            metadata: vec!["key".to_owned()],
            most_bytes: 1 << 16,
        }
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut all = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)];
        all.extend_from_slice(bytes);
        all
    }

    fn tensor(content: &[u8]) -> Vec<u8> {
        [&[8, 1][..], &field(2, b"shape"), &field(4, content)].concat()
    }

    fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
        field(2, &[field(1, key), field(2, value)].concat())
    }

    fn request(content: &[u8]) -> Vec<u8> {
        [field(1, b"model"), entry(b"x", &tensor(content))].concat()
    }

    fn cut_of(message: &[u8]) -> Option<Cut> {
        cut(&shape(), 3, &HeaderMap::new(), message)
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().copied().map(http::HeaderValue::from_static);
        values
            .map(|value| (http::HeaderName::from_static("key"), value))
            .collect()
    }

    #[test]
    fn requests_are_alike_that_differ_in_contents_alone() {
        let one = cut_of(&request(b"abcd"));
        assert!(one.is_some());
        assert_eq!(one, cut_of(&request(b"\x00\xff\x08\x01")));
        let (contents, message) = (one.map(|cut| cut.contents), request(b"abcd"));
        let found = contents.unwrap_or_default();
        let [content] = &found[..] else {
            unreachable!("one content");
        };
        assert_eq!(content.field, 4);
        assert_eq!(message.get(content.key.clone()), Some(&b"x"[..]));
        assert_eq!(message.get(content.bytes.clone()), Some(&b"abcd"[..]));
    }

    #[test]
    fn all_else_tells_requests_apart() {
        let of = |method, headers: &[&'static str], message: &[u8]| {
            cut(&shape(), method, &self::headers(headers), message).map(|cut| cut.template)
        };
        let [x, y] = [entry(b"x", &tensor(b"ab")), entry(b"y", &tensor(b"cdef"))];
        let templates = [
            of(3, &[], &request(b"abcd")),
            of(4, &[], &request(b"abcd")),
            of(3, &[""], &request(b"abcd")),
            of(3, &["a"], &request(b"abcd")),
            of(3, &["a", ""], &request(b"abcd")),
            of(3, &["", "a"], &request(b"abcd")),
            of(3, &[], &request(b"abc")),
            of(3, &[], &[request(b"abcd"), vec![24, 1]].concat()),
            of(3, &[], &[vec![24, 1], request(b"abcd")].concat()),
            of(3, &[], &entry(b"x", &tensor(b"abcd"))),
            of(3, &[], &entry(b"z", &tensor(b"abcd"))),
            of(3, &[], &entry(b"x", &field(4, b"abcd"))),
            of(3, &[], &entry(b"x", &field(5, b"abcd"))),
            of(3, &[], &[x.clone(), y.clone()].concat()),
            of(3, &[], &[y, x].concat()),
        ];
        assert!(templates.iter().all(Option::is_some));
        for (at, one) in templates.iter().enumerate() {
            assert!(
                !templates.iter().skip(at + 1).any(|other| one == other),
                "{at}"
            );
        }
    }

    #[test]
    fn what_is_not_of_the_simple_form_is_none() {
        let x = tensor(b"abcd");
        for message in [
            vec![],
            field(1, b"model"),
            entry(b"x", &field(2, b"shape")), // no content
            entry(b"x", &field(4, b"")),      // an empty one
            entry(b"x", &[x.clone(), field(4, b"a")].concat()), // two
            entry(b"x", &[x.clone(), field(5, b"abcd")].concat()), // in two fields
            entry(b"x", &[x.clone(), vec![5 << 3 | 5, 0, 0, 0, 0]].concat()), // unpacked
            [entry(b"x", &x), entry(b"x", &x)].concat(), // a key twice
            field(2, &field(1, b"x")),        // no value
            field(2, &field(2, &x)),          // no key
            field(2, &[field(1, b"x"), field(1, b"x"), field(2, &x)].concat()),
            field(2, &[field(1, b"x"), field(2, &x), field(2, &x)].concat()),
            field(2, &[field(1, b"x"), field(2, &x), field(3, b"")].concat()),
            [request(b"abcd"), vec![0, 0]].concat(), // no field has the number 0
            [request(b"abcd"), vec![3 << 3 | 3]].concat(), // a group
            [request(b"abcd"), vec![3 << 3 | 7]].concat(), // no wire type
            [request(b"abcd"), vec![0x98, 0]].concat(), // longer than it need be
            [request(b"abcd"), vec![3 << 3]].concat(), // cut off
            [request(b"abcd"), vec![3 << 3 | 2, 1]].concat(),
            [request(b"abcd"), vec![3 << 3 | 1, 1]].concat(),
        ] {
            assert_eq!(cut_of(&message), None, "{message:?}");
        }
        let many = |count| -> Vec<u8> { (0..count).flat_map(|key| entry(&[key], &x)).collect() };
        assert!(cut_of(&many(16)).is_some());
        assert_eq!(cut_of(&many(17)), None);
    }

    #[test]
    fn larger_requests_are_not_compared() {
        let message = request(b"abcd");
        let shape = Shape {
            most_bytes: message.len() - 1,
            ..shape()
        };
        assert_eq!(cut(&shape, 3, &HeaderMap::new(), &message), None);
    }

    #[test]
    fn a_cut_request_is_whole_again_with_its_contents() {
        let message = [entry(b"x", &tensor(b"ab")), request(b"cd")].concat();
        assert_eq!(cut_of(&message), None, "x twice");
        let message = [entry(b"y", &tensor(b"ab")), request(b"cdef")].concat();
        for end in 0..message.len() {
            // Whatever is cut off: it is none, or the cut of a shorter message.
            if let Some(cut) = cut_of(message.get(..end).unwrap_or_default()) {
                assert!(cut.contents.iter().all(|content| content.bytes.end <= end));
            }
        }
    }

    #[test]
    fn groups_stand_where_their_first_came() {
        let cut = |content: &[u8]| cut_of(&request(content)).map(Box::new);
        let came = grouped([
            (0, cut(b"a")),
            (1, None),
            (2, cut(b"ab")),
            (3, cut(b"b")),
            (4, None),
            (5, cut(b"abc")),
            (6, cut(b"cd")),
            (7, cut(b"c")),
        ]);
        let order: Vec<Vec<i32>> = came
            .into_iter()
            .map(|came| match came {
                Came::Single(item) => vec![item],
                Came::Group(items, cut) => {
                    assert_eq!(cut.contents.len(), 1);
                    assert!(!cut.template.is_empty());
                    items
                }
            })
            .collect();
        assert_eq!(
            order,
            [vec![0, 3, 7], vec![1], vec![2, 6], vec![4], vec![5]]
        );
    }
}

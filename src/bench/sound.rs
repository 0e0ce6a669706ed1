//! How long a sound is that arrives in pieces: WAV (RIFF) by its header, or raw 16-bit samples of one channel.

use kloros_actors::facts::SoundFormat;

/// Longest head of a WAV, in bytes; cover pictures and the like come after the samples or not at all.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// From here on the length that a WAV states is a stand-in of a writer that did not know it yet: espeak-ng states `0x7fff_f000`, ffmpeg
/// and sox all ones. Some state 0.
const UNKNOWN_MIN: u32 = 0x7fff_f000;

/// Bytes of a sample of raw sound.
const SAMPLE_BYTES: u32 = 2;

/// A sound that is being read.
#[derive(Debug)]
pub(super) struct Sound {
    /// What of a WAV was read before its samples.
    head: Vec<u8>,
    /// How many bytes of samples make a second, once that is known, and how many there should be.
    samples: Option<Samples>,
    /// How many bytes of samples there were.
    bytes: u64,
    first: Option<u8>,
    /// Whether any two bytes differed: where none do, it is silence.
    varies: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Samples {
    bytes_per_s: u32,
    stated: Option<u64>,
}

impl Sound {
    /// Returns a sound of which nothing has come yet. `pcm_rate_hz` is the rate of raw samples.
    pub(super) fn new(format: SoundFormat, pcm_rate_hz: u32) -> Self {
        let samples = match format {
            SoundFormat::Wav => None,
            SoundFormat::Pcm => Some(Samples { bytes_per_s: pcm_rate_hz * SAMPLE_BYTES, stated: None }),
        };
        Self { head: Vec::new(), samples, bytes: 0, first: None, varies: false }
    }

    /// Takes the next bytes and returns whether samples have come, or why it is no sound.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<bool, String> {
        if self.samples.is_some() {
            self.take(bytes);
        } else {
            self.head.extend_from_slice(bytes);
            if let Some((samples, at)) = head(&self.head)? {
                self.samples = Some(samples);
                let rest = std::mem::take(&mut self.head).split_off(at);
                self.take(&rest);
            } else if self.head.len() > HEAD_BYTES_MAX {
                return Err(format!("no samples in the first {HEAD_BYTES_MAX} bytes"));
            }
        }
        Ok(self.bytes > 0)
    }

    fn take(&mut self, bytes: &[u8]) {
        // What comes after the samples is no sound.
        let left = self.samples.and_then(|samples| samples.stated).map_or(u64::MAX, |stated| stated - self.bytes);
        let bytes = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.bytes += bytes.len() as u64;
        let first = self.first.or_else(|| bytes.first().copied());
        self.varies |= bytes.iter().any(|byte| Some(*byte) != first);
        self.first = first;
    }

    /// Returns its length in seconds, or why what came is no whole sound: cut off, empty or silent.
    pub(super) fn seconds(&self) -> Result<f64, String> {
        let Some(Samples { bytes_per_s, stated }) = self.samples else {
            return Err("it ends within its head".to_owned());
        };
        if let Some(stated) = stated.filter(|stated| self.bytes < *stated) {
            return Err(format!("{} bytes of samples where it states {stated}", self.bytes));
        }
        if self.bytes == 0 {
            return Err("it is empty".to_owned());
        }
        if !self.varies {
            return Err("it is silent".to_owned());
        }
        Ok(self.bytes as f64 / f64::from(bytes_per_s))
    }
}

/// Returns what the head of a WAV says and where its samples begin; `None` while more of it must come.
fn head(bytes: &[u8]) -> Result<Option<(Samples, usize)>, String> {
    let begins =
        |at: usize, text: &[u8]| bytes.get(at..).is_some_and(|rest| rest.iter().zip(text).all(|(a, b)| a == b));
    if !begins(0, b"RIFF") || !begins(8, b"WAVE") && bytes.len() > 8 {
        return Err("it is no WAV".to_owned());
    }
    let (mut at, mut bytes_per_s) = (12, None);
    loop {
        let Some(chunk) = bytes.get(at..at + 8) else { return Ok(None) };
        let size = number(&chunk[4..]);
        match &chunk[..4] {
            b"fmt " => {
                let Some(format) = bytes.get(at + 8..at + 24) else { return Ok(None) };
                bytes_per_s = Some(number(&format[8..12])).filter(|rate| *rate > 0);
            }
            b"data" => {
                let bytes_per_s = bytes_per_s.ok_or("it does not say how fast it is played")?;
                let stated = Some(size).filter(|size| (1..UNKNOWN_MIN).contains(size)).map(u64::from);
                return Ok(Some((Samples { bytes_per_s, stated }, at + 8)));
            }
            _ => {}
        }
        // A chunk of odd length is followed by a byte that belongs to none.
        at = at.saturating_add(8).saturating_add(size as usize).saturating_add(size as usize % 2);
        if at > HEAD_BYTES_MAX {
            return Err(format!("no samples in the first {HEAD_BYTES_MAX} bytes"));
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A WAV of 16-bit samples at 22050 Hz that states so many bytes.
    fn wav(stated: u32, samples: &[u8]) -> Vec<u8> {
        let mut bytes = b"RIFF\x24\xf0\xff\x7fWAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0\x01\0".to_vec();
        bytes.extend(22_050_u32.to_le_bytes());
        bytes.extend(44_100_u32.to_le_bytes());
        bytes.extend(b"\x02\0\x10\0data");
        bytes.extend(stated.to_le_bytes());
        bytes.extend(samples);
        bytes
    }

    fn noise(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    fn read(bytes: &[u8], piece: usize) -> Result<f64, String> {
        let mut sound = Sound::new(SoundFormat::Wav, 24_000);
        for piece in bytes.chunks(piece) {
            sound.push(piece)?;
        }
        sound.seconds()
    }

    #[test]
    fn a_wav_is_as_long_as_its_samples_whether_or_not_it_knew_that_beforehand() {
        for stated in [88_200, 0, 0x7fff_f000, u32::MAX] {
            assert_eq!(read(&wav(stated, &noise(88_200)), 1000), Ok(2.0), "{stated}");
        }
        let tagged = [wav(44_100, &noise(44_100)), b"LIST\x04\0\0\0abcd".to_vec()].concat();
        assert_eq!(read(&tagged, 7), Ok(1.0), "what comes after the samples is no sound");
    }

    #[test]
    fn what_is_cut_off_empty_silent_or_no_wav_has_no_length() {
        let cases: [(Vec<u8>, &str); 7] = [
            (wav(88_200, &noise(88_199)), "88199 bytes of samples where it states 88200"),
            (wav(0, &[]), "empty"),
            (wav(100, &[0; 100]), "silent"),
            (b"<html>It works!</html>".to_vec(), "no WAV"),
            (b"RIFF____WAV".to_vec(), "within its head"),
            (Vec::new(), "within its head"),
            (b"RIFF____WAVEdata\x10\0\0\0".to_vec(), "how fast"),
        ];
        for (bytes, why) in cases {
            let error = read(&bytes, 64).unwrap_err();
            assert!(error.contains(why), "{error} lacks {why}");
        }
        let endless = [b"RIFF____WAVEjunk\xff\xff\xff\x7f".to_vec(), vec![b'x'; HEAD_BYTES_MAX]].concat();
        assert!(read(&endless, 4096).unwrap_err().contains("no samples in the first"));
    }

    #[test]
    fn raw_samples_are_as_long_as_their_rate_says() {
        let mut sound = Sound::new(SoundFormat::Pcm, 24_000);
        assert_eq!(sound.push(&[]), Ok(false));
        assert_eq!(sound.push(&noise(24_000)), Ok(true));
        assert_eq!(sound.seconds(), Ok(0.5));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_network_cuts(piece in 1_usize..200, stated in prop_oneof![Just(0), Just(4410)]) {
            prop_assert_eq!(read(&wav(stated, &noise(4_410)), piece), Ok(0.1));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), is_wav in any::<bool>()) {
            let bytes = if is_wav { [b"RIFF\0\0\0\0WAVE".to_vec(), bytes].concat() } else { bytes };
            let _ = read(&bytes, 16);
        }
    }
}

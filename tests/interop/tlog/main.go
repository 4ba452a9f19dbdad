// Checks a log of ours by golang.org/x/mod/sumdb, and writes one for us to check.
package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type log struct {
	Vkey        string     `json:"vkey"`
	Note        []byte     `json:"note"`
	Entries     [][]byte   `json:"entries"`
	Index       int64      `json:"index"`
	Inclusion   [][]byte   `json:"inclusion"`
	OldSize     int64      `json:"old_size"`
	Consistency [][]byte   `json:"consistency"`
	Tiles       []tilePath `json:"tiles"`
}

type tilePath struct {
	Level  int    `json:"level"`
	Number int64  `json:"number"`
	Width  int    `json:"width"`
	Path   string `json:"path"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hashes(list [][]byte) []tlog.Hash {
	found := make([]tlog.Hash, len(list))
	for index, each := range list {
		if copy(found[index][:], each) != tlog.HashSize {
			must(fmt.Errorf("hash %d: %d bytes", index, len(each)))
		}
	}
	return found
}

func stored(entries [][]byte) []tlog.Hash {
	var all []tlog.Hash
	for number, entry := range entries {
		next, err := tlog.StoredHashes(int64(number), entry, reader(all))
		must(err)
		all = append(all, next...)
	}
	return all
}

func reader(all []tlog.Hash) tlog.HashReaderFunc {
	return func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for position, index := range indexes {
			found[position] = all[index]
		}
		return found, nil
	}
}

func check(given log) {
	verifier, err := note.NewVerifier(given.Vkey)
	must(err)
	opened, err := note.Open(given.Note, note.VerifierList(verifier))
	must(err)
	size, all := int64(len(given.Entries)), stored(given.Entries)
	root, err := tlog.TreeHash(size, reader(all))
	must(err)
	if text := fmt.Sprintf("%s\n%d\n%s\n", verifier.Name(), size, root); opened.Text != text {
		must(fmt.Errorf("checkpoint: expected %q, found %q", text, opened.Text))
	}
	old, err := tlog.TreeHash(given.OldSize, reader(all))
	must(err)
	leaf := tlog.RecordHash(given.Entries[given.Index])
	must(tlog.CheckRecord(hashes(given.Inclusion), size, root, given.Index, leaf))
	must(tlog.CheckTree(hashes(given.Consistency), size, root, given.OldSize, old))
	for _, each := range given.Tiles {
		path := tlog.Tile{H: 8, L: each.Level, N: each.Number, W: each.Width}.Path()
		if path != "tile/8/"+each.Path {
			must(fmt.Errorf("tile: expected %s, found tile/8/%s", path, each.Path))
		}
	}
}

func write(given log) log {
	skey, vkey, err := note.GenerateKey(rand.Reader, "go.example/log")
	must(err)
	signer, err := note.NewSigner(skey)
	must(err)
	size, all := int64(len(given.Entries)), stored(given.Entries)
	root, err := tlog.TreeHash(size, reader(all))
	must(err)
	text := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), size, root)
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	must(err)
	inclusion, err := tlog.ProveRecord(size, given.Index, reader(all))
	must(err)
	consistency, err := tlog.ProveTree(size, given.OldSize, reader(all))
	must(err)
	return log{Vkey: vkey, Note: signed, Index: given.Index, Inclusion: raw(inclusion), OldSize: given.OldSize,
		Consistency: raw(consistency)}
}

func raw(list []tlog.Hash) [][]byte {
	found := make([][]byte, len(list))
	for index := range list {
		found[index] = list[index][:]
	}
	return found
}

func main() {
	var given log
	must(json.NewDecoder(os.Stdin).Decode(&given))
	check(given)
	must(json.NewEncoder(os.Stdout).Encode(write(given)))
}

// Verifies a whole log over HTTP with golang.org/x/mod/sumdb, the client of the Go checksum database, as it is:
//
//	go run . <URL of the log> <file of vkeys> [file of an older checkpoint]...
//
// The checkpoint must be signed; every tile must hash to it; every entry must be the leaf it stands for; some leaves are
// proven one by one; and every older checkpoint, whose signature is checked too, must be a prefix of the newest.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileWidth = 256

func main() {
	log.SetFlags(0)
	base, verifiers := os.Args[1], readVerifiers(os.Args[2])
	text, err := get(base + "/checkpoint")
	check(err)
	newest := openCheckpoint(text, verifiers)
	tiles := &tileReader{base: base, kept: map[string][]byte{}}
	hashes := tlog.TileHashReader(newest, tiles)

	verifyEntries(base, newest, hashes)
	proofs := verifyProofs(newest, hashes)
	for _, file := range os.Args[3:] {
		text, err := os.ReadFile(file)
		check(err)
		verifyPrefix(openCheckpoint(text, verifiers), newest, hashes)
	}
	fmt.Printf("%d leaves, %d proofs, %d tiles, %d older checkpoints\n", newest.N, proofs, len(tiles.kept), len(os.Args)-3)
}

func readVerifiers(file string) note.Verifiers {
	text, err := os.ReadFile(file)
	check(err)
	var list []note.Verifier
	for _, vkey := range strings.Fields(string(text)) {
		verifier, err := note.NewVerifier(vkey)
		check(err)
		list = append(list, verifier)
	}
	return note.VerifierList(list...)
}

// c2sp.org/tlog-checkpoint: origin, size and root hash, a line each.
func openCheckpoint(text []byte, verifiers note.Verifiers) tlog.Tree {
	opened, err := note.Open(text, verifiers)
	check(err)
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err)
	root, err := tlog.ParseHash(lines[2])
	check(err)
	return tlog.Tree{N: size, Hash: root}
}

// Every entry of every bundle is the leaf that the authenticated tiles have at its place.
func verifyEntries(base string, tree tlog.Tree, hashes tlog.HashReader) {
	for first := int64(0); first < tree.N; first += tileWidth {
		width := min(tileWidth, tree.N-first)
		indexes := make([]int64, width)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(0, first+int64(i))
		}
		leaves, err := hashes.ReadHashes(indexes)
		check(err)
		// Level -1 is x/mod's own name for what stands below the leaves.
		bundle, err := get(base + "/" + pathOf(tlog.Tile{H: 8, L: -1, N: first / tileWidth, W: int(width)}))
		check(err)
		for i, leaf := range leaves {
			length := int(binary.BigEndian.Uint16(bundle))
			if entry := bundle[2 : 2+length]; tlog.RecordHash(entry) != leaf {
				log.Fatalf("entry %d is not the leaf there", first+int64(i))
			}
			bundle = bundle[2+length:]
		}
		if len(bundle) > 0 {
			log.Fatalf("the bundle at %d goes on behind its entries", first)
		}
	}
}

// Some leaves by themselves, around every tile's edge and in between.
func verifyProofs(tree tlog.Tree, hashes tlog.HashReader) int {
	proofs := 0
	for index := int64(0); index < tree.N; index++ {
		if place := index % tileWidth; place != 0 && place != tileWidth-1 && index%499 != 0 && index != tree.N-1 {
			continue
		}
		proof, err := tlog.ProveRecord(tree.N, index, hashes)
		check(err)
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		check(err)
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf[0]))
		proofs++
	}
	return proofs
}

func verifyPrefix(older, newest tlog.Tree, hashes tlog.HashReader) {
	proof, err := tlog.ProveTree(newest.N, older.N, hashes)
	check(err)
	check(tlog.CheckTree(proof, newest.N, newest.Hash, older.N, older.Hash))
}

// Keeps every tile that was authenticated, as x/mod asks its readers to.
type tileReader struct {
	base string
	lock sync.Mutex
	kept map[string][]byte
}

func (r *tileReader) Height() int { return 8 }

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	var read [][]byte
	for _, tile := range tiles {
		data, known := r.kept[tile.Path()]
		if !known {
			var err error
			if data, err = get(r.base + "/" + pathOf(tile)); err != nil {
				return nil, err
			}
		}
		read = append(read, data)
	}
	return read, nil
}

func (r *tileReader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for i, tile := range tiles {
		r.kept[tile.Path()] = bytes.Clone(data[i])
	}
}

// x/mod writes the height into a path, and calls entries data; c2sp.org/tlog-tiles does not.
func pathOf(tile tlog.Tile) string {
	path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
	return strings.Replace(path, "tile/data/", "tile/entries/", 1)
}

func get(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Other people's verifiers, unmodified, for witness.test.ts to hold our cosignatures against:
//
//	cosigned <vkey>                      transparency-dev/formats: the note on stdin is cosigned; prints when
//	proof <policy> <entry, base64>       torchwood: the tlog-proof on stdin holds, and satisfies the tlog-policy
package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"filippo.io/torchwood"
	f_note "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	commands := map[string]func(args []string, input []byte) error{"cosigned": cosigned, "proof": proof}
	input, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = commands[os.Args[1]](os.Args[2:], input)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func cosigned(args []string, input []byte) error {
	verifier, err := f_note.NewVerifierForCosignatureV1(args[0])
	if err != nil {
		return err
	}
	opened, err := note.Open(input, note.VerifierList(verifier))
	if err != nil {
		return err
	}
	at, err := f_note.CoSigV1Timestamp(opened.Sigs[0])
	if err != nil {
		return err
	}
	fmt.Println(at.Unix())
	return nil
}

func proof(args []string, input []byte) error {
	policy, err := torchwood.ParsePolicy([]byte(args[0]))
	if err != nil {
		return err
	}
	entry, err := base64.StdEncoding.DecodeString(args[1])
	if err != nil {
		return err
	}
	return torchwood.VerifyProof(policy, tlog.RecordHash(entry), input)
}

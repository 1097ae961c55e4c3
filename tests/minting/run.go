// Compiled with the page's Go block: cases as JSON lines on stdin, one line of answer each.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	for cases := json.NewDecoder(os.Stdin); cases.More(); {
		var c struct {
			Secret, Domain, Subject, Owner string
			KeyID                          string `json:"key_id"`
			Expires                        *int
		}
		if err := cases.Decode(&c); err != nil {
			panic(err)
		}
		subject, _ := hex.DecodeString(c.Subject)
		expires := -1
		if c.Expires != nil {
			expires = *c.Expires
		}
		if key, err := mint(c.Secret, c.KeyID, c.Domain, string(subject), expires, c.Owner); err != nil {
			fmt.Println("refused")
		} else {
			fmt.Println(key)
		}
	}
}

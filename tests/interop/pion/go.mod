module culvert.example/interop/pion

go 1.19

require (
	github.com/pion/logging v0.2.2
	github.com/pion/turn/v2 v2.1.6
)

require (
	github.com/pion/dtls/v2 v2.2.7 // indirect
	github.com/pion/randutil v0.1.0 // indirect
	github.com/pion/stun v0.6.1 // indirect
	github.com/pion/transport/v2 v2.2.1 // indirect
	golang.org/x/crypto v0.8.0 // indirect
	golang.org/x/sys v0.9.0 // indirect
)

package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// longestProbe bounds what a host may ask for, and so how long a program that never answers is waited for.
const longestProbe = time.Hour

type probeRequest struct {
	Type      string `json:"type"` // tcp, http or https
	Host      string `json:"host"`
	Port      int    `json:"port"`
	Path      string `json:"path"`
	TimeoutMs int64  `json:"timeout_ms"`
}

type probeAnswer struct {
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
}

// probe tries a port of this guest. That it can't be reached is an answer, and no failure of the request.
func (s *Server) probe(w http.ResponseWriter, r *http.Request) error {
	var request probeRequest
	if err := readJSON(r, &request); err != nil {
		return err
	}
	if request.Host == "" || request.Port < 1 || request.Port > 65535 || request.TimeoutMs < 1 || request.TimeoutMs > longestProbe.Milliseconds() {
		return &Error{http.StatusBadRequest, "invalid_request", "a probe has a host, a port of 1 to 65535 and a timeout_ms of 1 to an hour"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(request.TimeoutMs)*time.Millisecond)
	defer cancel()
	var answer probeAnswer
	var err error
	switch request.Type {
	case "tcp":
		err = probeTCP(ctx, request)
	case "http", "https":
		answer.Status, err = probeHTTP(ctx, request)
	default:
		return &Error{http.StatusBadRequest, "invalid_request", "a probe is of the type tcp, http or https"}
	}
	if err != nil {
		answer.Error = err.Error()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			answer.Error = fmt.Sprintf("no answer within %d ms", request.TimeoutMs)
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func (r probeRequest) address() string { return net.JoinHostPort(r.Host, strconv.Itoa(r.Port)) }

func probeTCP(ctx context.Context, request probeRequest) error {
	connection, err := dial(ctx, request)
	if err != nil {
		return err
	}
	return connection.Close()
}

// probeHTTP sends one request and reads no more of the answer than its head. It follows nothing and keeps nothing open.
func probeHTTP(ctx context.Context, request probeRequest) (int, error) {
	target, err := url.Parse(request.Type + "://" + request.address() + "/" + strings.TrimPrefix(request.Path, "/"))
	if err != nil {
		return 0, err
	}
	connection, err := dial(ctx, request)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	asked := &http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{"User-Agent": {"hypeman"}}, Close: true}
	if err := asked.Write(connection); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(connection), asked)
	if err != nil {
		return 0, err
	}
	// Closing the body would read it to its end, which may never come.
	return answer.StatusCode, nil
}

// dial connects, and for https agrees on keys with whoever is there: a probe asks whether a program answers, not who it is.
func dial(ctx context.Context, request probeRequest) (net.Conn, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", request.address())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			connection.Close()
			return nil, err
		}
	}
	if request.Type != "https" {
		return connection, nil
	}
	secure := tls.Client(connection, &tls.Config{InsecureSkipVerify: true})
	if err := secure.HandshakeContext(ctx); err != nil {
		connection.Close()
		return nil, err
	}
	return secure, nil
}

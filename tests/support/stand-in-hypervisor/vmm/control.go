package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
)

type controlRequest struct {
	Do   string `json:"do"`
	File string `json:"file"`
	// Bytes is what the guest shall give back in all.
	Bytes int64 `json:"bytes"`
	// Size is what the machine shall have.
	Size size `json:"size"`
}

type controlAnswer struct {
	Status string `json:"status,omitempty"`
	Disk   string `json:"disk,omitempty"`
	Error  string `json:"error,omitempty"`
	// Balloon is what the guest has given back.
	Balloon int64 `json:"balloon,omitempty"`
	Size    size  `json:"size"`
}

// serveControl answers requests of one JSON line each, until it can't listen any more.
func serveControl(listener net.Listener, guest *guest, disk string, most size) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			requests, answers := json.NewDecoder(bufio.NewReader(connection)), json.NewEncoder(connection)
			for {
				var request controlRequest
				if requests.Decode(&request) != nil {
					return // the host has gone, or does not speak as we do
				}
				answer := controlAnswer{Disk: disk, Status: "running"}
				if err := control(guest, request, most); err != nil {
					answer.Error = err.Error()
				}
				answer.Balloon, answer.Size = guest.balloon(), guest.size()
				if guest.isPaused() {
					answer.Status = "paused"
				}
				if answers.Encode(answer) != nil {
					return
				}
			}
		}()
	}
}

func control(guest *guest, request controlRequest, most size) error {
	switch request.Do {
	case "status":
		return nil
	case "pause":
		guest.pause()
		return nil
	case "resume":
		guest.resume()
		return nil
	case "save":
		return guest.save(request.File)
	case "balloon":
		guest.setBalloon(request.Bytes)
		return nil
	case "grow":
		return guest.grow(request.Size, most)
	case "power":
		go guest.run(func() { guest.powerOff(0) })
		return nil
	}
	return errors.New("unknown request " + request.Do)
}

package node

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const (
	pauseImage  = "localhost/pause:1"
	serverImage = "localhost/server:1"
	belayImage  = "localhost/belay:node"
	// belayVersion is what the image is stamped with.
	belayVersion = "v0.0.0-node"
)

func archives(scratch string) string { return filepath.Join(scratch, "images") }

// buildImages builds what the node runs. No registry is asked for anything.
func buildImages(ctx context.Context, scratch string) error {
	if err := os.MkdirAll(archives(scratch), 0o755); err != nil {
		return err
	}
	storage := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(scratch, "buildah"), filepath.Join(scratch, "buildah-run"))
	if err := os.WriteFile(storageFile(scratch), []byte(storage), 0o644); err != nil {
		return err
	}
	for program, image := range map[string]string{"pause": pauseImage, "server": serverImage} {
		if err := buildSmallImage(ctx, scratch, program, image); err != nil {
			return err
		}
	}
	for _, arch := range []string{"arm64", "amd64"} {
		image := belayImage
		if arch != runtime.GOARCH {
			image += "-" + arch
		}
		if err := buildBelayImage(ctx, scratch, arch, image); err != nil {
			return err
		}
	}
	// What this machine cannot run is not for its node.
	for _, arch := range []string{"arm64", "amd64"} {
		if arch != runtime.GOARCH {
			return os.Remove(archive(scratch, belayImage+"-"+arch))
		}
	}
	return nil
}

func storageFile(scratch string) string { return filepath.Join(scratch, "storage.conf") }

func archive(scratch, image string) string {
	return filepath.Join(archives(scratch), strings.ReplaceAll(filepath.Base(image), ":", "-")+".tar")
}

// buildah prepares a command that keeps images in the scratch directory and needs no container engine.
func buildah(ctx context.Context, scratch, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = repository()
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+storageFile(scratch), "STORAGE_DRIVER=vfs", "BUILDAH_ISOLATION=chroot")
	return cmd
}

// export writes an image to a file for containerd.
func export(ctx context.Context, scratch, image string) error {
	return runQuietly(buildah(ctx, scratch, "buildah", "push", "--quiet", image, "docker-archive:"+archive(scratch, image)+":"+image))
}

// buildSmallImage makes an image of one of the programs beside this file.
func buildSmallImage(ctx context.Context, scratch, program, image string) error {
	dir := filepath.Join(scratch, program)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, program), "./test/node/"+program)
	build.Dir, build.Env = repository(), append(os.Environ(), "CGO_ENABLED=0")
	if err := runQuietly(build); err != nil {
		return err
	}
	dockerfile := fmt.Sprintf("FROM scratch\nCOPY %[1]s /%[1]s\nUSER 65532:65532\nENTRYPOINT [\"/%[1]s\"]\n", program)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return err
	}
	if err := runQuietly(buildah(ctx, scratch, "buildah", "bud", "--quiet", "--tag", image, dir)); err != nil {
		return err
	}
	return export(ctx, scratch, image)
}

// buildBelayImage builds the Dockerfile, and makes sure of what the image promises: one static file, the same that
// another build in another place gives, run by a user that is not root.
func buildBelayImage(ctx context.Context, scratch, arch, image string) error {
	cmd := buildah(ctx, scratch, filepath.Join(repository(), "hack", "image.sh"))
	cmd.Env = append(cmd.Env, "BUILDER=host", "IMAGE="+image, "VERSION="+belayVersion, "PLATFORM=linux/"+arch)
	if err := runQuietly(cmd); err != nil {
		return err
	}
	if err := export(ctx, scratch, image); err != nil {
		return err
	}
	content, err := readImage(archive(scratch, image))
	if err != nil {
		return err
	}
	if want := []string{"belay"}; !slices.Equal(content.files, want) {
		return fmt.Errorf("the image holds %q, want %q", content.files, want)
	}
	if content.User != "65532:65532" || content.Architecture != arch {
		return fmt.Errorf("the image is for %s and runs as %s, want %s and 65532:65532", content.Architecture, content.User, arch)
	}
	again := filepath.Join(scratch, "belay-"+arch)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+belayVersion, "-o", again, ".")
	build.Dir, build.Env = repository(), append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if err := runQuietly(build); err != nil {
		return err
	}
	binary, err := os.ReadFile(again)
	if err != nil {
		return err
	}
	if digest := sha256.Sum256(binary); digest != content.digest {
		return fmt.Errorf("two builds for %s differ: %x in the image, %x beside it", arch, content.digest, digest)
	}
	say("image for %s: %.1f MB, one file, two builds with the digest %x", arch, float64(content.size)/1e6, content.digest[:8])
	return nil
}

// content is what is in an image of one layer.
type content struct {
	User, Architecture string
	files              []string
	size               int64
	digest             [sha256.Size]byte // of the last file
}

// readImage reads an archive as "docker save" writes it.
func readImage(path string) (c content, err error) {
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := readMember(path, "manifest.json", func(r io.Reader) error { return json.NewDecoder(r).Decode(&manifest) }); err != nil {
		return c, err
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		return c, fmt.Errorf("%s: want one image with one layer, got %+v", path, manifest)
	}
	var config struct {
		Architecture string
		Config       struct{ User string }
	}
	if err := readMember(path, manifest[0].Config, func(r io.Reader) error { return json.NewDecoder(r).Decode(&config) }); err != nil {
		return c, err
	}
	c.Architecture, c.User = config.Architecture, config.Config.User
	err = readMember(path, manifest[0].Layers[0], func(r io.Reader) error {
		layer := tar.NewReader(r)
		for {
			header, err := layer.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			hash := sha256.New()
			if _, err := io.Copy(hash, layer); err != nil {
				return err
			}
			c.files, c.size = append(c.files, header.Name), c.size+header.Size
			hash.Sum(c.digest[:0])
		}
	})
	return c, err
}

// readMember calls read with one file of an archive.
func readMember(path, name string, read func(io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	members := tar.NewReader(file)
	for {
		header, err := members.Next()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
		if header.Name == name {
			return read(members)
		}
	}
}

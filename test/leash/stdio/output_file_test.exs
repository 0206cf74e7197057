defmodule Leash.Stdio.OutputFileTest do
  # Serial: there is one Logger.
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  alias Leash.OptionsError
  alias Leash.Stdio.OutputFile

  setup do
    nothing_is_listed_after()
    dir = tmp_dir!()
    %{dir: dir, path: Path.join(dir, "out.log"), decoy: start_decoy("lives beside them")}
  end

  defp open(path, size, keep), do: OutputFile.open(%{path: path, size: size, keep: keep}, "test")

  defp files(path) do
    for name <- [path | Enum.map(1..20, &"#{path}.#{&1}")],
        File.exists?(name),
        do: File.read!(name)
  end

  defp start!(options) do
    {:ok, worker} = Worker.start_link(options)
    worker
  end

  defp await_exit(worker) do
    assert_receive {:EXIT, ^worker, reason}, 10_000
    reason
  end

  describe "a file" do
    test "is rotated at a line's end before it gets too large", %{path: path} do
      for part <- [1, 3, 7, 100], keep <- [0, 1, 3, 20] do
        Enum.each(Path.wildcard(path <> "*"), &File.rm!/1)
        text = Enum.map_join(10..40, &"line #{&1}\n")
        file = for(<<byte <- text>>, do: <<byte>>) |> Enum.chunk_every(part)

        file
        |> Enum.map(&Enum.join/1)
        |> Enum.reduce(open(path, 20, keep), &OutputFile.write(&2, &1))
        |> OutputFile.close()

        files = files(path)
        # 31 lines, of which two or three fit.
        if keep == 20,
          do: assert(length(files) in 11..16),
          else: assert(length(files) == keep + 1)

        assert Enum.all?(files, &(byte_size(&1) <= 24 and &1 =~ ~r/\A(line \d\d\n)+\z/))
        # The latest are kept, and none is lost or torn between them.
        assert String.ends_with?(text, files |> Enum.reverse() |> Enum.join())
        if keep == 20, do: assert(files |> Enum.reverse() |> Enum.join() == text)
      end
    end

    test "cuts a line without an end, and does not grow beyond", %{path: path} do
      parts = List.duplicate(String.duplicate("x", 10_000), 30)
      parts |> Enum.reduce(open(path, 100, 20), &OutputFile.write(&2, &1)) |> OutputFile.close()
      files = files(path)
      assert length(files) == 5
      assert Enum.all?(files, &(byte_size(&1) <= 100 + 65_536))
      assert files |> Enum.join() |> byte_size() == 300_000
    end

    test "goes on where an earlier one of that name ended", %{path: path} do
      File.write!(path, String.duplicate("a", 15) <> "\n")
      path |> open(20, 2) |> OutputFile.write("bbbbbb\n") |> OutputFile.close()
      assert files(path) == ["bbbbbb\n", String.duplicate("a", 15) <> "\n"]
    end

    test "that cannot be written costs a line in the log", %{dir: dir} do
      log =
        capture_log(fn ->
          file = open("/dev/full", nil, 0)
          file = Enum.reduce(1..3, file, fn _n, file -> OutputFile.write(file, "lost\n") end)
          OutputFile.close(file)
          file = open(Path.join(dir, "no/such/file"), 10, 1)
          file |> OutputFile.write("lost\n") |> OutputFile.close()
        end)

      assert log =~ "test: /dev/full cannot be written: no space left on device (enospc); 5 bytes"
      assert log =~ "test: /dev/full was not written to its end; 10 bytes are lost"
      assert log =~ "no/such/file cannot be opened: no such file or directory (enoent)"
    end
  end

  describe "a worker with rotate:" do
    test "has files of that size, and nothing is lost between them", %{path: path} do
      rotate = [size: "10kB", keep: 20]
      worker = start!(command: "seq", args: ["20000"], stdout: {:file, path, rotate: rotate})
      assert await_exit(worker) == :normal
      files = files(path)
      assert length(files) in 11..12
      # 108,894 bytes in lines.
      assert files |> Enum.reverse() |> Enum.join() == Enum.map_join(1..20_000, &"#{&1}\n")
      assert Enum.all?(files, &(byte_size(&1) <= 10_000))
    end

    test "shares one file with stderr, gets ready by a line, and keeps the last lines", context do
      options = [
        shell: "echo out; echo READY; echo err >&2; sleep 0.02; exit 3",
        ready: ~r/READY/,
        exit_reason: &{&1.status, &1.stderr}
      ]

      file = {:file, context.path, rotate: [size: 1_000]}
      worker = start!([stdout: file, stderr: :stdout] ++ options)
      assert await_exit(worker) == {3, []}
      assert File.read!(context.path) == "out\nREADY\nerr\n"

      worker = start!([stdout: :output, on_output: self(), stderr: file] ++ options)
      assert await_exit(worker) == {3, ["err"]}
      assert File.read!(context.path) == "out\nREADY\nerr\nerr\n"
      assert_received {:leash_output, ^worker, :stdout, "out\n" <> _}
      refute_received {:leash_output, ^worker, :stderr, _}
    end

    test "that is killed leaves the file complete", %{path: path, decoy: decoy} do
      line = "seq 3000; echo done; exec sleep 60"
      file = {:file, path, rotate: [size: "1MB"]}
      worker = start!(shell: line, stdout: file, ready: ~r/^done/)
      sleep = Observer.identity(Worker.os_pid(worker))
      assert Observer.alive?(sleep)
      Process.exit(worker, :kill)
      assert await_exit(worker) == :killed
      assert_eventually(fn -> not Observer.alive?(sleep) end)
      all = Enum.map_join(1..3_000, &"#{&1}\n") <> "done\n"
      assert_eventually(fn -> File.read!(path) == all end)
      assert_unharmed(decoy)
    end
  end

  test "a restart goes on in the same file, and the Collectable is opened anew", context do
    %{dir: dir, path: path} = context
    other = Path.join(dir, "err")

    options = [
      shell: "echo out; echo bad >&2; cat",
      stdin: :pipe,
      stdout: {:file, path, rotate: [size: "1MB"]},
      on_stderr: {:into, File.stream!(other, [:append])}
    ]

    worker = start!(options)
    assert_eventually(fn -> File.read(path) == {:ok, "out\n"} end)
    assert {:ok, %Exit{}} = Worker.restart(worker)
    assert_eventually(fn -> File.read(path) == {:ok, "out\nout\n"} end)
    assert_eventually(fn -> File.read(other) == {:ok, "bad\nbad\n"} end)
    # Of the second program alone.
    assert {:ok, %Exit{stderr: ["bad"]}} = Worker.stop(worker)
  end

  describe "reopen" do
    test "goes on in a new file, and nothing is written to the renamed one", %{path: path} do
      options = [command: "cat", stdin: :pipe, stdout: {:file, path, reopen: true}]
      worker = start!(options)
      :ok = Worker.write(worker, "one\n")
      assert_eventually(fn -> File.read!(path) == "one\n" end)
      File.rename!(path, path <> ".old")
      :ok = Worker.write(worker, "two\n")
      assert_eventually(fn -> File.read!(path <> ".old") == "one\ntwo\n" end)
      assert Worker.reopen(worker) == :ok
      :ok = Worker.write(worker, "three\n")
      assert_eventually(fn -> File.read(path) == {:ok, "three\n"} end)
      assert File.read!(path <> ".old") == "one\ntwo\n"
      assert :leash.reopen(worker) == :ok
      assert {:ok, _exit} = Worker.stop(worker)
      assert Worker.reopen(worker) == {:error, :noproc}
    end

    test "that fails leaves the old file, and one of the program is not ours", context do
      %{dir: dir, path: path} = context
      worker = start!(command: "cat", stdin: :pipe, stdout: {:file, path, reopen: true})
      File.rename!(path, path <> ".old")
      File.mkdir!(path)
      assert Worker.reopen(worker) == {:error, :eisdir}
      :ok = Worker.write(worker, "more\n")
      assert_eventually(fn -> File.read!(path <> ".old") == "more\n" end)
      assert {:ok, _exit} = Worker.stop(worker)

      for stdout <- [
            {:file, Path.join(dir, "plain")},
            {:file, Path.join(dir, "plain"), []},
            :null
          ] do
        worker = start!(command: "sleep", args: ["60"], stdout: stdout)
        assert Worker.reopen(worker) == {:error, :not_reopenable}
        assert Leash.Error.format(:not_reopenable) =~ "reopen: true"
        assert {:ok, _exit} = Worker.stop(worker)
      end
    end
  end

  test "what cannot be written, or is no such option, is refused with a sentence", context do
    %{dir: dir, path: path} = context
    rotate = [rotate: [size: 10]]

    for {options, words} <- [
          {[stdout: {:file, path, rotate: [size: 0]}], "bytes > 0"},
          {[stdout: {:file, path, rotate: [keep: 1]}],
           "bytes > 0, or text such as \"10MB\" (it is"},
          {[stdout: {:file, path, rotate: [size: 1, keep: -1]}], "an integer from 0 to 1000"},
          {[stdout: {:file, path, rotation: 1}], "did you mean :rotate?"},
          {[stderr: {:file, path, 5}], "a keyword list"},
          {[stdout: {:file, "", rotate}], "a string without NUL bytes"},
          {[stdout: {:file, dir, rotate}], "a regular file"},
          {[stdout: {:file, "/dev/full", rotate}], "a regular file"},
          {[stdout: {:file, dir <> "/no/x", rotate}], "can be appended to (enoent)"},
          {[stdout: {:file, path, rotate}, stderr: {:file, path, rotate}], ":stdout, to share"},
          {[stdout: {:file, path, rotate}, stderr: :null, on_exit: :detach, name: :x],
           "beside on_exit: :detach"},
          {[stdout: {:fil, path}], ":output, :null, {:file, path} or {:file, path, options}"}
        ] do
      error = assert_raise OptionsError, fn -> Worker.start_link([command: "true"] ++ options) end

      assert Exception.message(error) =~ words
    end
  end

  test "Erlang gives charlists, maps and proplists, and :cd holds for the path", %{dir: dir} do
    for options <- [
          %{rotate: %{size: ~c"1MB", keep: 2}},
          [{:rotate, [size: ~c"1MB"]}],
          [reopen: true]
        ] do
      output = %{stdout: {:file, ~c"erl.log", options}, cd: String.to_charlist(dir)}
      {:ok, worker} = :leash.start_link(Map.merge(output, %{shell: ~c"echo hi"}))
      assert await_exit(worker) == :normal
    end

    assert File.read!(Path.join(dir, "erl.log")) == "hi\nhi\nhi\n"
  end
end

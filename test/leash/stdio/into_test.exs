defmodule Leash.Stdio.IntoTest do
  # Serial: there is one Logger.
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  alias Leash.OptionsError
  alias Leash.Test.{Sink, SlowCollectable}

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("lives beside them"), path: Path.join(tmp_dir!(), "out")}
  end

  defp start!(options) do
    {:ok, worker} = Worker.start_link(options)
    worker
  end

  defp await_exit(worker, ms \\ 5_000) do
    assert_receive {:EXIT, ^worker, reason}, ms
    reason
  end

  test "a file has everything when the Worker has ended, and is closed", %{path: path} do
    worker = start!(command: "seq", args: ["20000"], on_output: {:into, File.stream!(path)})
    assert await_exit(worker) == :normal
    assert File.read!(path) == Enum.map_join(1..20_000, &"#{&1}\n")
    assert open_files(path) == []
  end

  test "both streams of one option share one Collectable, and neither overwrites", %{path: path} do
    line = "for i in 1 2 3; do echo out$i; echo err$i >&2; sleep 0.02; done"
    worker = start!(shell: line, on_output: {:into, File.stream!(path)}, lines: true)
    assert await_exit(worker) == :normal
    for i <- 1..3, stream <- ["out", "err"], do: assert(File.read!(path) =~ "#{stream}#{i}")
    assert path |> File.read!() |> String.length() == 24
  end

  test "on_stderr has a Collectable of its own", %{path: path} do
    test = self()
    sink = %Sink{fun: &send(test, {:out, &1}), done: true}
    options = [on_output: {:into, sink}, on_stderr: {:into, File.stream!(path)}, lines: true]
    worker = start!([shell: "printf 'a\\nb'; printf bad >&2"] ++ options)
    assert await_exit(worker) == :normal
    assert_received {:out, "a"}
    assert_received {:out, "b"}
    assert_received {:out, :done}
    refute_received {:out, _}
    assert File.read!(path) == "bad"
  end

  test "a slow Collectable holds the program back, and not a stop", %{decoy: decoy} do
    options = [on_output: {:into, %SlowCollectable{ms: 60_000}}]
    line = "i=0; while :; do i=$((i+1)); echo $i > progress; head -c 65536 /dev/zero; done"
    dir = tmp_dir!()
    worker = start!([shell: line, cd: dir] ++ options)
    shell = Observer.identity(Worker.os_pid(worker))
    assert_eventually(fn -> progress(dir) >= 2 end)
    # One part in the Collectable, and what the pipe and its reader hold.
    assert Observer.eventually(1_000, fn -> progress(dir) > 20 end) in [nil, false]
    assert Observer.alive?(shell)

    log =
      capture_log(fn ->
        began = System.monotonic_time(:millisecond)
        assert {:ok, %Exit{}} = Worker.stop(worker, kill: true)
        assert System.monotonic_time(:millisecond) - began < 3_000
      end)

    refute Observer.alive?(shell)
    assert log =~ "on_output of sh, Collectable.Leash.Test.SlowCollectable.into/1,"
    assert log =~ "has not taken all output yet"
    assert_unharmed(decoy)
  end

  defp progress(dir) do
    with {:ok, text} <- File.read(Path.join(dir, "progress")),
         {number, _end} <- Integer.parse(text),
         do: number,
         else: (_none -> 0)
  end

  test "one that raises costs a line in the log, and the pipe goes on" do
    test = self()

    sink = %Sink{
      fun: fn
        "2" -> raise "oops"
        line -> send(test, {:line, line})
      end
    }

    log =
      capture_log(fn ->
        worker = start!(command: "seq", args: ["4"], on_output: {:into, sink}, lines: true)
        assert await_exit(worker) == :normal
      end)

    for line <- ["1", "3", "4"], do: assert_received({:line, ^line})

    assert log =~
             "on_output of seq, Collectable.Leash.Test.Sink.into/1, raised: ** (RuntimeError)"
  end

  test "one that cannot be opened costs a line in the log, and the program is not held back" do
    file = File.stream!("/no/such/directory/file")

    log =
      capture_log(fn ->
        worker = start!(command: "seq", args: ["100000"], on_output: {:into, file})
        assert await_exit(worker) == :normal
      end)

    assert log =~ "on_output of seq, Collectable.File.Stream.into/1, raised: ** (File.Error)"
    assert log |> String.split("File.Error") |> length() == 2
  end

  test "a Worker that is killed leaves a file with what its program wrote", %{path: path} do
    line = "seq 3000; echo done; exec sleep 60"
    worker = start!(shell: line, on_output: {:into, File.stream!(path)}, ready: ~r/^done/)
    sleep = Observer.identity(Worker.os_pid(worker))
    assert Observer.alive?(sleep)
    Process.exit(worker, :kill)
    assert await_exit(worker) == :killed
    assert_eventually(fn -> not Observer.alive?(sleep) end)
    assert_eventually(fn -> open_files(path) == [] end)
    assert File.read!(path) == Enum.map_join(1..3_000, &"#{&1}\n") <> "done\n"
  end

  test "one with no effect, and a value that is none, are refused with a sentence" do
    for {value, words} <-
          [{[], "has an effect"}, {"", "has an effect"}, {%{}, "has an effect"}] ++
            [{1, "implements Collectable"}, {self(), "implements"}] do
      error =
        assert_raise OptionsError, fn ->
          Worker.start_link(command: "true", on_output: {:into, value})
        end

      assert Exception.message(error) =~ words
    end

    assert_raise OptionsError, ~r/a pid, a function of two arguments/, fn ->
      Worker.start_link(command: "true", on_output: :into)
    end
  end

  test "Erlang gives one as well", %{path: path} do
    options = %{command: ~c"echo", args: [~c"hi"], on_output: {:into, File.stream!(path)}}
    {:ok, worker} = :leash.start_link(options)
    assert await_exit(worker) == :normal
    assert File.read!(path) == "hi\n"
  end

  # The VM's descriptors of a file.
  defp open_files(path) do
    for fd <- File.ls!("/proc/self/fd"),
        {:ok, ^path} <- [File.read_link("/proc/self/fd/#{fd}")],
        do: fd
  end
end

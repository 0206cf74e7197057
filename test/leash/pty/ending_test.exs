defmodule Leash.Pty.EndingTest do
  @moduledoc "The end of a terminal's output, its hang-up, and the end of a tree that has it."

  use Leash.Test.Case, async: false

  alias Leash.Test.{Carrier, Screen}

  setup do: {:ok, decoy: start_decoy("beside a terminal"), dir: tmp_dir!()}

  # Tells on a file which of the two signals came first.
  defp tells(dir, more \\ "") do
    """
    trap 'echo hup >> #{dir}/told' HUP
    trap 'echo term >> #{dir}/told; exit 9' TERM
    echo ready $$; #{more}
    while :; do sleep 0.02; done
    """
  end

  defp told(dir) do
    case File.read(Path.join(dir, "told")) do
      {:ok, text} -> String.split(text)
      {:error, :enoent} -> []
    end
  end

  describe "the end of output" do
    test "is the end of the last process that has the terminal, and no error" do
      {text, 0} = Leash.cmd("seq", ["200000"], timeout: 60_000)
      lines = String.replace(text, "\n", "\r\n")
      assert Leash.cmd("seq", ["200000"], pty: true, timeout: 60_000) == {lines, 0}
      assert "seq" |> Leash.stream!(["200000"], pty: true) |> Enum.join() == lines
      options = [command: "seq", args: ["200000"], pty: true, on_output: self()]
      {:ok, worker} = Worker.start_link(options)
      assert {^lines, :normal} = Screen.read_to_end(worker)
    end

    test "loses nothing of a program that writes and exits at once" do
      for number <- 1..100 do
        line = "printf %03d #{number}; printf x >&2"
        expected = String.pad_leading("#{number}", 3, "0") <> "x"
        assert Leash.cmd("sh", ["-c", line], pty: true) == {expected, 0}
      end

      for number <- 1..20 do
        options = [command: "echo", args: ["#{number}"], pty: true, on_output: self()]
        {:ok, worker} = Worker.start_link(options)
        assert {"#{number}\r\n", :normal} == Screen.read_to_end(worker)
      end
    end

    test "loses nothing of a program that nothing reads for a while" do
      reads_late = fn part ->
        Process.sleep(20)
        part
      end

      stream = Leash.stream!("seq", ["3000"], pty: true)
      text = stream |> Stream.map(reads_late) |> Enum.join()
      assert text == Enum.map_join(1..3000, &"#{&1}\r\n")
    end

    # The end of a session's leader is a SIGHUP for the foreground, as in any terminal.
    test "waits for a background process that has the terminal" do
      late = "trap '' HUP; (sleep 0.4; echo late) & echo early"
      assert Leash.cmd("sh", ["-c", late], pty: true) == {"early\r\nlate\r\n", 0}
      options = [command: "sh", args: ["-c", late], pty: true, on_output: self()]
      {:ok, worker} = Worker.start_link([linger: 10_000] ++ options)
      assert {"early\r\nlate\r\n", :normal} = Screen.read_to_end(worker)
    end

    test "does not wait for it longer than :linger", %{decoy: decoy} do
      carrier = new_carrier()
      line = Carrier.enter(carrier) <> "trap '' HUP; sleep 60 & echo early"
      assert Leash.cmd("sh", ["-c", line], pty: true, linger: 50) == {"early\r\n", 0}
      assert_gone(carrier)
      line = "trap '' HUP; sleep 60 & echo ready $$ $!"
      %{worker: worker} = tree = start_tree({:sh, line}, pty: true, linger: 50)
      assert_receive {:EXIT, ^worker, :normal}, 10_000
      assert_gone(tree)
      assert_unharmed(decoy)
    end

    test "leaves what a command keeps, without the terminal", %{dir: dir} do
      carrier = new_carrier()
      file = Path.join(dir, "kept")

      kept =
        "setsid sh -c 'echo $$ > #{file}; exec sleep 60' & while [ ! -s #{file} ]; do :; done"

      line = Carrier.enter(carrier) <> kept
      options = [pty: true, on_exit: :keep, linger: 50]
      assert Leash.cmd("sh", ["-c", line], options) == {"", 0}
      pid = file |> File.read!() |> String.trim() |> String.to_integer()
      assert Observer.state(pid) == "S"
      Carrier.clear(carrier)
    end

    test "is not the moment in which no process has the terminal" do
      line = "exec </dev/null >/dev/null 2>&1; sleep 0.3; echo back > /dev/tty; exit 3"
      assert Leash.cmd("sh", ["-c", line], pty: true) == {"back\r\n", 3}
      options = [command: "sh", args: ["-c", line], pty: true, on_output: self()]
      {:ok, worker} = Worker.start_link(options)
      assert {"back\r\n", {:exit_status, 3}} = Screen.read_to_end(worker)
    end
  end

  describe "the first that a program hears of its end is the ladder's first step" do
    test "of a worker that is stopped", %{dir: dir} do
      tree = start_tree({:sh, tells(dir)}, pty: true, stop: [sigterm: 20_000])
      assert {:ok, %Exit{status: 9}} = Worker.stop(tree.worker)
      assert told(dir) == ["term"]
      assert_gone(tree)
    end

    test "of a worker with another first step", %{dir: dir} do
      stop = [sighup: 200, sigterm: 20_000]
      tree = start_tree({:sh, tells(dir)}, pty: true, stop: stop)
      assert {:ok, %Exit{status: 9}} = Worker.stop(tree.worker)
      assert told(dir) == ["hup", "term"]
    end

    test "of a command whose time is over", %{dir: dir} do
      options = [pty: true, timeout: 300, stop: [sigterm: 20_000]]
      assert {"ready" <> _, :timeout} = Leash.cmd("sh", ["-c", tells(dir)], options)
      assert told(dir) == ["term"]
    end

    test "of a command that writes too much", %{dir: dir} do
      line = tells(dir, "seq 10000;")
      options = [pty: true, max_output: 100, stop: [sigterm: 20_000]]
      assert {<<_::binary-size(100)>>, :max_output} = Leash.cmd("sh", ["-c", line], options)
      assert told(dir) == ["term"]
    end

    test "of a stream that is left", %{dir: dir} do
      line = tells(dir, "seq 10000;")
      options = [pty: true, stop: [sigterm: 20_000]]
      assert ["ready" <> _] = "sh" |> Leash.stream!(["-c", line], options) |> Enum.take(1)
      assert told(dir) == ["term"]
    end
  end

  test "a program hears SIGHUP when its VM is killed", %{dir: dir, decoy: decoy} do
    carrier = new_carrier()
    options = command({:sh, tells(dir)}, carrier)
    vm = start_vm([{"one", Keyword.put(options, :stop, sigterm: 20_000)}], mode: :pty)
    assert [_program | _] = Carrier.members(carrier)
    VM.signal(vm, "KILL")
    assert_gone(carrier, 20_000)
    assert "hup" in told(dir)
    assert_unharmed(decoy)
  end

  # Children in groups, sessions and with parents of their own, one of them stopped.
  @jobs """
  sleep 90 &
  setsid sleep 90 &
  (sleep 90 & exec sleep 90) &
  ( (setsid sh -c 'trap "" HUP TERM; sleep 90 & wait' &) )
  nohup sleep 90 > /dev/null 2>&1 &
  env -i setsid sleep 90 &
  sleep 90 & kill -STOP $!
  echo ready $$ $(jobs -p)
  """

  defp interactive(dir, carrier) do
    File.write!(Path.join(dir, "rc"), "PS1='$ '\n" <> @jobs)
    {:sh, line} = {:sh, "exec bash --rcfile #{dir}/rc -i"}
    command({:sh, line}, carrier)
  end

  describe "nothing is left of an interactive shell and its jobs" do
    setup context, do: {:ok, carrier: new_carrier(), decoy: context.decoy}

    for {name, act} <- [
          {"when it is stopped", :stop},
          {"when its owner crashes", :crash},
          {"when its Worker is killed", :kill_worker}
        ] do
      test name, %{carrier: carrier, dir: dir} = context do
        parent = self()

        owner =
          spawn(fn ->
            options = interactive(dir, carrier) ++ [pty: true, ready: ~r/^ready/]
            {:ok, worker} = Worker.start_link([on_output: fn _, _ -> :ok end] ++ options)
            send(parent, {:worker, worker})

            receive do
              :crash -> exit(:crash)
            end
          end)

        assert_receive {:worker, worker}, 10_000
        assert_eventually(fn -> length(Carrier.members(carrier)) >= 10 end)

        case unquote(act) do
          :stop -> assert {:ok, %Exit{}} = Worker.stop(worker)
          :crash -> send(owner, :crash)
          :kill_worker -> Process.exit(worker, :kill)
        end

        assert_gone(carrier, 10_000)
        assert_unharmed(context.decoy)
        Process.exit(owner, :kill)
      end
    end

    for {name, act} <- [
          {"when the VM gets SIGKILL", :vm},
          {"when its shim gets SIGKILL", :shim},
          {"when VM and shim get SIGKILL", :both}
        ] do
      test name, %{carrier: carrier, dir: dir} = context do
        vm = start_vm([{"one", interactive(dir, carrier)}], mode: :pty)
        assert_eventually(fn -> length(Carrier.members(carrier)) >= 10 end)
        %{workers: %{"one" => %{shim: shim}}} = vm

        case unquote(act) do
          :vm -> VM.signal(vm, "KILL")
          :shim -> Observer.signal(shim, "KILL")
          :both -> Observer.kill_together([vm.identity, shim])
        end

        assert_gone(carrier, 10_000)
        assert_unharmed(context.decoy)
      end
    end
  end
end

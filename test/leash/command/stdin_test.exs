defmodule Leash.Command.StdinTest do
  # What a program reads that is given nothing to read.
  use Leash.Test.Case, async: false

  setup do
    nothing_is_listed_after()
  end

  # Says within a second whether its stdin has ended.
  @watcher """
  import select, sys
  ended, _, _ = select.select([sys.stdin], [], [], 1.0)
  print("ended" if ended and not sys.stdin.read(1) else "open")
  """

  @tag :slow
  test "a watcher goes on, as with System.cmd/3, and `stdin: :null` is empty" do
    watcher = ["-c", @watcher]
    assert System.cmd("python3", watcher) == {"open\n", 0}
    assert Leash.cmd("python3", watcher) == {"open\n", 0}
    assert Leash.cmd("python3", watcher, stdin: :null) == {"ended\n", 0}
    assert Leash.cmd("python3", watcher, input: "") == {"ended\n", 0}
    assert Leash.stream!("python3", watcher) |> Enum.join() == "open\n"
    assert Leash.stream!("python3", watcher, stdin: :null) |> Enum.join() == "ended\n"
    assert Leash.cmd("readlink", ["/proc/self/fd/0"], stdin: :null) == {"/dev/null\n", 0}
    assert {"pipe:" <> _, 0} = Leash.cmd("readlink", ["/proc/self/fd/0"])
  end

  test "a worker's open stdin is a pipe that only its shim can write to" do
    said = fn stdin ->
      {:ok, worker} =
        Worker.start_link(
          command: "python3",
          args: ["-c", @watcher],
          stdin: stdin,
          on_output: self()
        )

      assert_receive {:leash_output, ^worker, :stdout, text}, 20_000
      text
    end

    # Unbuffered, Python writes the end of a line by itself.
    assert said.(:open) =~ "open"
    assert said.(:null) =~ "ended"

    tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, stdin: :open)
    {os_pid, _ticks} = tree.os
    {shim_pid, _ticks} = tree.shim
    pipe = File.read_link!("/proc/#{os_pid}/fd/0")
    assert "pipe:" <> _ = pipe

    assert [^pipe] =
             for(fd <- File.ls!("/proc/#{shim_pid}/fd"), link(shim_pid, fd) == pipe, do: pipe)

    refute pipe in for(fd <- File.ls!("/proc/self/fd"), do: link("self", fd))
    assert Worker.write(tree.worker, "x") == {:error, :not_piped}
    assert Worker.close_stdin(tree.worker) == {:error, :not_piped}
    assert {:ok, _exit} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  test "a program that ends with its stdin ends when the VM is killed, before any signal" do
    file = Path.join(tmp_dir!(), "how")
    line = "echo ready; cat; echo end of stdin >#{file}"

    vm =
      start_vm([
        {"one", command: "sh", args: ["-c", line], stdin: :open, stop: [sigwinch: 20_000]}
      ])

    VM.signal(vm, "KILL")
    assert_eventually(fn -> File.read(file) == {:ok, "end of stdin\n"} end, 10_000)
    assert_gone(vm.carrier, 10_000)
  end

  test "of a worker that outlives its VM it stays open" do
    options = [
      command: "python3",
      args: ["-c", @watcher],
      name: :stdin_test,
      on_exit: :detach,
      stdin: :open,
      stdout: {:file, Path.join(tmp_dir!(), "said")},
      stderr: :null
    ]

    {:ok, worker} = Worker.start_link(options)
    {:file, said} = options[:stdout]
    assert_receive {:EXIT, ^worker, :normal}, 20_000
    assert File.read!(said) == "open\n"
    assert %{key: :stdin} = catch_error(Worker.start_link(%{Map.new(options) | stdin: :pipe}))
  end

  test "what goes with no other option is refused" do
    for options <- [[stdin: :null, input: "x"], [stdin: :null, use_stdio: false], [stdin: :pipe]] do
      error = assert_raise Leash.OptionsError, fn -> Leash.cmd("true", [], options) end
      assert error.key == :stdin
    end
  end

  defp link(pid, fd) do
    case File.read_link("/proc/#{pid}/fd/#{fd}") do
      {:ok, target} -> target
      {:error, _closed} -> nil
    end
  end
end

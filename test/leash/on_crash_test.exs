defmodule Leash.OnCrashTest do
  @moduledoc """
  `:on_crash`: how hard a tree is ended when its owner crashes or is killed, for every way to
  start a tree.
  """

  use Leash.Test.Case, async: true

  # The file is half-written if the program is killed, and whole if the program is asked to end
  # and gets its time. The hang-up of a port that goes with its owner is such a request, and
  # SIGKILL follows it.
  @saves "trap 'sleep 1; rm half; echo all > saved; exit' TERM; " <>
           "echo ready $$; touch half; while :; do sleep 0.02; done"

  @crashes [killed: :kill, crashed: %RuntimeError{message: "job timed out"}]

  setup do: {:ok, dir: tmp_dir!()}

  # Each starts the program for the calling process, and returns if the calling process goes on to
  # other work.
  defp ways do
    [
      worker: fn program, args, options ->
        {:ok, _worker} =
          Worker.start_link(
            [command: program, args: args, stdout: :null, stderr: :null] ++ options
          )
      end,
      cmd: &Leash.cmd/3,
      stream: fn program, args, options ->
        program |> Leash.stream(args, options) |> Stream.run()
      end,
      open_port: &Leash.open_port/3,
      attach: fn program, args, options ->
        {cd, options} = Keyword.pop(options, :cd)
        program = System.find_executable(program)
        port = Port.open({:spawn_executable, program}, args: args, cd: cd)
        {:ok, _attachment} = Leash.attach(port, options)
      end
    ]
  end

  defp begin(way, dir, carrier, options) do
    program = command({:sh, @saves}, carrier)

    owner =
      spawn(fn ->
        ways()[way].(
          program[:command],
          program[:args],
          [cd: dir, stop: [sigterm: 20_000]] ++ options
        )

        Process.sleep(:infinity)
      end)

    assert_eventually(fn -> File.exists?(Path.join(dir, "half")) end)
    # The program is there before it is attached.
    if way == :attach, do: assert_eventually(fn -> attached?(carrier) end)
    owner
  end

  defp attached?(carrier) do
    pids = for {pid, _ticks} <- Carrier.members(carrier), do: pid
    Enum.any?(Leash.list(), &(&1.os_pid in pids))
  end

  for {way, default} <- [
        worker: :kill,
        cmd: :ladder,
        stream: :ladder,
        open_port: :ladder,
        attach: :ladder
      ],
      {crash, _reason} <- @crashes,
      given <- [nil, :ladder, :kill] do
    how = given || default
    options = if given, do: [on_crash: given], else: []
    title = if given, do: "on_crash: #{inspect(given)}", else: "no option"

    test "#{way} with #{title} is ended by #{how} when its owner is #{crash}", %{dir: dir} do
      carrier = new_carrier()
      options = unquote(options)
      owner = begin(unquote(way), dir, carrier, options)
      Process.exit(owner, unquote(Macro.escape(@crashes))[unquote(crash)])
      assert_gone(carrier, 5_000)
      assert File.exists?(Path.join(dir, "saved")) == (unquote(how) == :ladder)
      assert File.exists?(Path.join(dir, "half")) == (unquote(how) == :kill)
    end
  end

  test "the kill of a Worker process is a crash as well", %{dir: dir} do
    for {on_crash, saved?} <- [kill: false, ladder: true] do
      dir = Path.join(dir, "#{on_crash}")
      File.mkdir!(dir)
      own = [cd: dir, stop: [sigterm: 20_000], on_crash: on_crash]
      tree = start_tree({:sh, @saves}, own)
      Process.exit(tree.worker, :kill)
      assert_gone(tree, 5_000)
      assert File.exists?(Path.join(dir, "saved")) == saved?
    end
  end

  @tag :slow
  test "an owner that exits in order goes through the ladder, whatever the option says", %{
    dir: dir
  } do
    for {reason, index} <- Enum.with_index([:normal, :shutdown, {:shutdown, :done}]) do
      dir = Path.join(dir, "#{index}")
      File.mkdir!(dir)
      carrier = new_carrier()
      owner = begin(:worker, dir, carrier, on_crash: :kill)
      # From another process, :normal would be ignored.
      if reason == :normal, do: stop_in_order(owner), else: Process.exit(owner, reason)
      assert_gone(carrier, 5_000)
      assert File.exists?(Path.join(dir, "saved"))
    end
  end

  defp stop_in_order(owner) do
    [worker] =
      for row <- Leash.list(),
          {:links, links} <- [Process.info(row.pid, :links)],
          owner in links,
          do: row.pid

    assert {:ok, %Exit{}} = Worker.stop(worker)
    Process.exit(owner, :kill)
  end

  test "a wrong value is refused with its name" do
    for start <- [
          &Worker.start_link([command: "true"] ++ &1),
          &Leash.attach(System.pid() |> String.to_integer(), &1)
        ] do
      assert %Leash.OptionsError{key: :on_crash, value: :later} =
               catch_error(start.(on_crash: :later))
    end

    for start <- [
          &Leash.cmd("true", [], &1),
          &Leash.stream("true", [], &1),
          &Leash.open_port("true", [], &1)
        ],
        do: assert_raise(Leash.OptionsError, ~r/on_crash/, fn -> start.(on_crash: :later) end)
  end

  describe "what a crash leaves of" do
    @describetag needs: :git

    test "a commit of git: no lock", %{dir: dir} do
      git = fn args -> System.cmd("git", args, cd: dir, stderr_to_stdout: true) end

      for args <- [
            ["init", "-q", "."],
            ["config", "user.name", "a"],
            ["config", "user.email", "a@b"],
            ["config", "commit.gpgsign", "false"]
          ],
          do: assert({_text, 0} = git.(args))

      File.write!(Path.join(dir, "file"), "1\n")
      assert {_text, 0} = git.(["add", "file"])
      assert {_text, 0} = git.(["commit", "-q", "-m", "one"])
      hook = Path.join(dir, ".git/hooks/pre-commit")
      File.write!(hook, "#!/bin/sh\ntouch #{dir}/in_hook\nsleep 60\n")
      File.chmod!(hook, 0o755)
      lock = Path.join(dir, ".git/index.lock")

      for {_how, reason} <- @crashes do
        File.rm(Path.join(dir, "in_hook"))
        File.write!(Path.join(dir, "file"), "#{inspect(reason)}\n")
        owner = spawn(fn -> Leash.cmd("git", ["commit", "-q", "-a", "-m", "two"], cd: dir) end)
        assert_eventually(fn -> File.exists?(Path.join(dir, "in_hook")) end)
        assert File.exists?(lock)

        Process.exit(owner, reason)
        assert_eventually(fn -> not File.exists?(lock) end)
        assert {_text, 0} = git.(["add", "file"])
      end
    end
  end

  describe "what a crash leaves of a recording:" do
    @describetag needs: :ffmpeg

    test "a film that plays", %{dir: dir} do
      film = Path.join(dir, "film.mp4")
      # The film plays in real time, and for ever.
      source = ~w(-loglevel error -y -re -f lavfi -i testsrc=size=128x96:rate=25)
      args = source ++ ["-c:v", "mpeg4", film]

      owner = spawn(fn -> Leash.cmd("ffmpeg", args, stop: [sigterm: 15_000], stderr: :null) end)

      assert_eventually(
        fn -> match?({:ok, %{size: size}} when size > 0, File.stat(film)) end,
        15_000
      )

      Process.exit(owner, :kill)

      playable = fn ->
        match?({_text, 0}, System.cmd("ffprobe", ["-v", "error", film], stderr_to_stdout: true))
      end

      assert_eventually(playable, 15_000)
    end
  end

  test "what a crash leaves of a Python tree: no shared memory", %{dir: dir} do
    name = "leash_test_#{System.unique_integer([:positive])}"
    path = Path.join("/dev/shm", name)

    code = """
    import signal, sys
    from multiprocessing import shared_memory
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    memory = shared_memory.SharedMemory(name="#{name}", create=True, size=4096)
    try:
        open("#{dir}/ready", "w").close()
        signal.pause()
    finally:
        memory.close()
        memory.unlink()
    """

    on_exit(fn -> File.rm(path) end)

    owner =
      spawn(fn ->
        Leash.cmd(Python.path(), ["-c", code], stop: [sigterm: 15_000], stderr: :null)
      end)

    assert_eventually(fn -> File.exists?(Path.join(dir, "ready")) end, 15_000)
    assert File.exists?(path)
    Process.exit(owner, :kill)
    assert_eventually(fn -> not File.exists?(path) end, 15_000)
  end
end

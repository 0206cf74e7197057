defmodule Leash.Faults.DescentTest do
  @moduledoc """
  A process that has shed every tag (mark, environment, session, parent) is known by its descent.
  It is ended when its shim is killed, and when the VM is killed with it.
  """

  use Leash.Test.Case, async: false

  @line "env -i prlimit --locks=1:1 setsid -f sleep 600; sleep 601; :"

  for {kind, start} <- [
        Worker: "Leash.Worker.start_link(command: \"sh\", args: args)",
        cmd: "Leash.cmd(\"sh\", args)",
        stream: "\"sh\" |> Leash.stream!(args) |> Enum.to_list()"
      ],
      {fault, killed} <- [
        {"its shim is killed", [:shim]},
        {"VM and shim are killed", [:vm, :shim]},
        {"the shim is stopped, and VM and shim are killed", [:stop, :vm, :shim]}
      ] do
    test "what a program of #{kind} has started without a tag is gone when #{fault}" do
      decoys = Decoys.all()
      vm = start_vm([{"other", [command: "sh", args: ["-c", "echo ready; exec sleep 602"]]}])
      tree = start(vm, unquote(start))
      other = vm.workers["other"]
      assert Enum.all?([other.os | Map.values(tree)], &Observer.alive?/1)

      if :stop in unquote(killed), do: Observer.signal(tree.shim, "STOP")

      who =
        for it <- unquote(killed),
            it != :stop,
            do: if(it == :vm, do: vm.identity, else: tree.shim)

      Observer.kill_together(who)

      assert_eventually(fn -> not Enum.any?(Map.values(tree), &Observer.alive?/1) end, 2_000)
      if :vm not in unquote(killed), do: assert(Observer.alive?(other.os))
      assert Decoys.harmed(decoys) == []
    end
  end

  # Each of them ends a mark where its PAM sets limits.
  @others [
    {"su", "su nobody -s /bin/sh -c"},
    {"runuser", "runuser -u nobody -- sh -c"},
    {"sudo", "sudo -n -u nobody sh -c"}
  ]

  @tag needs: :su
  @tag :slow
  test "what su, runuser and sudo started is gone when the shim, or VM and shim, are killed" do
    decoys = Decoys.all()
    tools = for {program, line} <- @others, System.find_executable(program), do: line
    assert tools != []

    for killed <- [[:shim], [:vm, :shim]], tool <- tools do
      vm = start_vm([])
      line = "#{tool} 'setsid -f sleep 600'; #{tool} 'sleep 601; :'; :"
      VM.eval(vm, "spawn(fn -> Leash.cmd(\"sh\", [\"-c\", #{inspect(line)}]) end); :ok")
      assert_eventually(fn -> length(sleeps(vm, "600") ++ sleeps(vm, "601")) == 2 end, 20_000)
      tree = Carrier.members(vm.carrier) |> Enum.filter(&nobodys?/1)
      assert length(tree) >= 3
      [plain] = sleeps(vm, "601")
      shim = Enum.find(Stream.iterate(plain, &parent/1), &shim?/1)
      Observer.kill_together(for it <- killed, do: if(it == :vm, do: vm.identity, else: shim))
      assert_eventually(fn -> not Enum.any?([shim | tree], &Observer.alive?/1) end, 2_000)
      VM.stop(vm)
    end

    assert Decoys.harmed(decoys) == []
  end

  defp nobodys?({pid, _ticks}), do: File.read!("/proc/#{pid}/status") =~ "Uid:\t65534\t65534"

  defp shim?({pid, _ticks}),
    do: match?([_program, "--run-id=" <> _run | _options], Observer.argv(pid))

  defp start(vm, code) do
    code =
      "args = [\"-c\", #{inspect(@line)}]; spawn(fn -> #{code}; Process.sleep(:infinity) end)"

    VM.eval(vm, "#{code}; :ok")
    assert_eventually(fn -> length(sleeps(vm, "600") ++ sleeps(vm, "601")) == 2 end, 10_000)
    [{pid, _ticks} = stripped] = sleeps(vm, "600")
    [plain] = sleeps(vm, "601")
    # The process keeps nothing that could show its run.
    assert Tag.marked_run(pid) == nil
    assert File.read!("/proc/#{pid}/environ") == ""
    shell = parent(plain)
    shim = parent(shell)
    assert shim?(shim)
    %{stripped: stripped, plain: plain, shell: shell, shim: shim}
  end

  defp parent({pid, _ticks}), do: pid |> Observer.parent() |> Observer.identity()

  defp sleeps(vm, seconds) do
    for {pid, _ticks} = process <- Carrier.members(vm.carrier),
        match?([_sleep, ^seconds], Observer.argv(pid)),
        do: process
  end
end

defmodule Leash.RunDirTest do
  # Serial: each test boots a VM of its own.
  use Leash.Test.Case, async: false

  alias Leash.{DefaultDir, Registry}
  alias Leash.Reaper.{State, Verification}
  alias Leash.Test.Narrow

  import ExUnit.CaptureLog, only: [with_log: 1]

  @moduletag timeout: 120_000

  defp missing_parent(dir), do: Path.join(dir, "missing/run")

  defp loose(dir), do: made(dir, &File.chmod!(&1, 0o777))
  defp foreign(dir), do: made(dir, &File.chown!(&1, Narrow.nobody()))

  defp made(dir, change) do
    path = Path.join(dir, "run")
    File.mkdir!(path)
    File.chmod!(path, 0o700)
    change.(path)
    path
  end

  defp start(run_dir, carrier),
    do:
      start_vm([{"one", command(:setsid_child, carrier)}, {"two", neighbour()}], run_dir: run_dir)

  defp neighbour, do: [command: "sh", args: ["-c", "echo ready; exec sleep 600"]]

  defp assert_nothing_left(vm, carrier) do
    decoys = Decoys.all()
    assert Carrier.members(carrier) != []
    # The warden that started the shim would end the tree as well.
    [warden] = VM.wardens(vm)
    Observer.signal(warden, "KILL")
    assert_eventually(fn -> VM.wardens(vm) -- [warden] != [] end)
    Observer.signal(vm.workers["one"].shim, "KILL")
    assert_gone(carrier, 20_000)

    {other, _ticks} = vm.workers["two"].os
    rows = "for(row <- Leash.Registry.all(), do: row.os_pid)"
    assert_eventually(fn -> VM.eval(vm, rows) == [other] end, 20_000)

    assert Observer.alive?(vm.workers["two"].os)
    assert Decoys.harmed(decoys) == []
  end

  describe "a run directory" do
    for {title, kind} <- [
          {"whose parent is missing", :missing_parent},
          {"that is open to others", :loose},
          {"of another user", :foreign}
        ] do
      @tag needs: :setpriv
      @tag :slow
      test "#{title} leaves nothing of a tree whose shim was killed, and frees its number" do
        dir = tmp_dir!()

        run_dir =
          case unquote(kind) do
            :missing_parent -> missing_parent(dir)
            :loose -> loose(dir)
            :foreign -> foreign(dir)
          end

        carrier = new_carrier()
        vm = start(run_dir, carrier)
        assert {:error, _reason} = VM.eval(vm, "Leash.capabilities().record")

        assert %{incomplete_because: because} =
                 VM.eval(vm, "{:ok, report} = Leash.sweep(); Map.from_struct(report)")

        assert :records in because
        assert_nothing_left(vm, carrier)
      end
    end

    @tag :slow
    test "that is opened to others later leaves nothing of a tree whose shim was killed" do
      run_dir = made(tmp_dir!(), fn _path -> :ok end)
      carrier = new_carrier()
      vm = start(run_dir, carrier)
      assert VM.eval(vm, "Leash.capabilities().record") == :ok
      File.chmod!(run_dir, 0o777)
      assert_nothing_left(vm, carrier)
    end

    @tag :slow
    test "that becomes usable gets the run's record and socket" do
      run_dir = loose(tmp_dir!())
      vm = start_vm([], run_dir: run_dir)
      assert File.ls!(run_dir) == []
      File.chmod!(run_dir, 0o700)
      files = Enum.map([".json", ".sock"], &(vm.run_id <> &1))
      assert_eventually(fn -> Enum.sort(File.ls!(run_dir)) == files end, 20_000)
      assert %{record: :ok, control: :ok} = VM.eval(vm, "Leash.capabilities()")
      assert VM.ask(vm, "app_stop") == ":ok"
      assert File.ls!(run_dir) == []
    end
  end

  describe "a hunt" do
    defp hunted(state, result) do
      state = %{state | hunting: {self(), make_ref(), [31_999]}, later: MapSet.new()}
      Verification.hunted({:shutdown, result}, state)
    end

    defp report(because, survivors \\ []) do
      complete = because == []
      %{passes: 1, survivors: survivors, complete: complete, incomplete_because: because}
    end

    defp row(tree) do
      description = %{kind: :worker, label: "test", stop: [], group: nil}
      Registry.put(%{Registry.row(31_999, self(), description) | tree: tree})
      on_exit(fn -> Registry.delete(31_999) end)
    end

    for {title, result} <- [
          {"that fails", {:error, :emfile}},
          {"that did not see everything",
           {:ok, %{passes: 1, survivors: [], complete: false, incomplete_because: [:fleeting]}}}
        ] do
      @tag result: result
      test "#{title} keeps its numbers, and is begun again after a time that grows up to a minute",
           %{result: result} do
        row(:ending)

        {state, waits} =
          Enum.reduce(1..9, {State.new(Leash.Run.current!()), []}, fn _n, {state, waits} ->
            {state, _log} = with_log(fn -> hunted(state, result) end)
            assert MapSet.to_list(state.later) == [31_999]
            assert Registry.taken?(31_999)
            # Some of the time has passed.
            ms = Float.ceil(Process.cancel_timer(state.look_again) / 1_000) |> trunc()
            {%{state | look_again: nil}, [ms | waits]}
          end)

        assert Enum.reverse(waits) == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        # The log has said once that it goes on. It does not repeat that every minute.
        assert {_state, ""} = with_log(fn -> hunted(state, result) end)

        # The next look hunts it. After a hunt that succeeds, the number is free.
        %{hunting: {_pid, monitor, [31_999]}} = state = Verification.look_at_later(state)
        assert_receive {:DOWN, ^monitor, :process, _, reason}, 20_000
        assert %{hunting: nil, failures: 0} = Verification.hunted(reason, state)
        refute Registry.taken?(31_999)
      end
    end

    test "that saw all of this user's processes frees what is not left" do
      row(:ending)
      state = hunted(State.new(Leash.Run.current!()), {:ok, report([:hidepid])})
      assert {state.look_again, MapSet.size(state.later)} == {nil, 0}
      refute Registry.taken?(31_999)
    end

    test "keeps the number of what survived, and is begun again as well" do
      row(:ending)
      survivor = %{pid: 1, command: "test", why: :uninterruptible, worker: 31_999}

      {state, _log} =
        with_log(fn -> hunted(State.new(Leash.Run.current!()), {:ok, report([], [survivor])}) end)

      assert Process.cancel_timer(state.look_again) <= 1_000
      assert MapSet.to_list(state.later) == [31_999]
      assert Registry.taken?(31_999)
    end

    test "without /proc frees what its shim proved, and nothing else" do
      row(:gone)
      state = hunted(State.new(Leash.Run.current!()), {:ok, report([:no_proc])})
      assert state.look_again == nil
      refute Registry.taken?(31_999)

      row(:ending)
      {state, _log} = with_log(fn -> hunted(state, {:ok, report([:no_proc])}) end)
      assert is_integer(Process.cancel_timer(state.look_again))
      assert Registry.taken?(31_999)
    end
  end

  describe "the default directory" do
    setup do
      {:ok, parent: tmp_dir!(), uid: Leash.Native.euid()}
    end

    test "is that of the user's number, whatever mode ours has", %{parent: parent, uid: uid} do
      first = Path.join(parent, "leash-#{uid}")
      assert DefaultDir.path(parent, uid) == first
      File.mkdir!(first)
      File.chmod!(first, 0o777)
      assert DefaultDir.path(parent, uid) == first
    end

    test "is another of ours where a file, link or user has its name, and found again",
         %{parent: parent, uid: uid} do
      first = Path.join(parent, "leash-#{uid}")
      File.ln_s!("/", first)
      assert DefaultDir.path(parent, uid) == first <> ".1"
      # Other users took these names as well, up to the last.
      for n <- 1..8, do: File.ln_s!("/", "#{first}.#{n}")
      taken = DefaultDir.path(parent, uid)
      assert String.starts_with?(taken, first <> ".")
      refute File.exists?(taken)
      File.mkdir!(taken)
      File.chmod!(taken, 0o755)
      refute DefaultDir.path(parent, uid) == taken
      File.chmod!(taken, 0o700)
      assert DefaultDir.path(parent, uid) == taken
      File.rm!(first)
      assert DefaultDir.path(parent, uid) == taken
    end

    @tag needs: :setpriv
    test "made by another user first costs no record, and every start finds the same other one" do
      # A number that belongs to no user here.
      uid = 64_000 + rem(System.unique_integer([:positive]), 1_000)
      first = "/tmp/leash-#{uid}"
      File.mkdir!(first)
      on_exit(fn -> Enum.each([first, first <> ".1"], &File.rm_rf!/1) end)

      options = [
        run_dir: "",
        prefix: "setpriv --reuid=#{uid} --regid=#{uid} --clear-groups",
        os_env: %{"HOME" => "/tmp", "RUNTIME_DIRECTORY" => ""}
      ]

      for _start <- 1..2 do
        vm = start_vm([], options)

        assert %{record: :ok, control: :ok} = VM.eval(vm, "Leash.capabilities()")
        assert VM.eval(vm, "Leash.Run.current!().config.run_dir") == first <> ".1"
        VM.stop(vm)
      end
    end
  end
end

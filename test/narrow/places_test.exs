defmodule Leash.Narrow.PlacesTest do
  @moduledoc """
  Directories without write or execute permission, users with fewer rights, and an empty root.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.{Cli, Narrow, Script}

  describe "a run directory" do
    @describetag needs: :mounts

    for {title, mount, reason} <- [
          {"that is read-only", "mount -t tmpfs -o ro,mode=0700 none", :erofs},
          {"that is full", "mount -t tmpfs -o mode=0700,nr_inodes=1 none", :enospc}
        ] do
      test "#{title}: no record, said so, and every end of a tree works" do
        decoys = Decoys.all()
        dir = tmp_dir!()
        carrier = new_carrier()
        prefix = Narrow.mounted(["#{unquote(mount)} #{dir}"])
        vm = start_vm([{"one", command(:setsid_child, carrier)}], run_dir: dir, prefix: prefix)
        assert %{record: {:error, why}} = VM.eval(vm, "Leash.capabilities()")
        assert {unquote(reason), path} = why
        assert String.starts_with?(path, dir)
        VM.command(vm, "stop")
        assert VM.await_line(vm, "stopped one ") =~ "cause: :stop"
        assert_gone(carrier)
        assert Narrow.logged(vm, Narrow.restart()) =~ "without a record"
        VM.stop(vm)

        # The same if the VM is killed.
        carrier = new_carrier()
        vm = start_vm([{"one", command(:setsid_child, carrier)}], run_dir: dir, prefix: prefix)
        VM.signal(vm, "KILL")
        assert_gone(carrier, 5_000)
        assert Decoys.harmed(decoys) == []
      end
    end

    test "that fills up later: a worker with a flag starts all the same, and is ended as ever" do
      dir = tmp_dir!()
      carrier = new_carrier()
      prefix = Narrow.mounted(["mount -t tmpfs -o mode=0700,size=8k none #{dir}"])
      vm = start_vm([], run_dir: dir, prefix: prefix)

      code = """
      _ = File.write(#{inspect(Path.join(dir, "filler"))}, :binary.copy("x", 100_000))
      options = #{inspect(command(:setsid_child, carrier))} ++ [run_id_flag: "--run", ready: ~r/ready/]
      {:ok, pid} = Leash.Worker.start_link(options)
      {:ok, exit} = Leash.Worker.stop(pid)
      exit.cause
      """

      assert VM.eval(vm, code) == :stop
      assert_gone(carrier)
    end
  end

  describe "noexec" do
    @describetag needs: :mounts

    test "on the place of the shim: each start says so, and nothing stays" do
      carrier = new_carrier()
      priv = Application.app_dir(:leash, "priv")
      # The library was copied, so that only the shim lacks the right.
      lib = tmp_dir!()
      File.chmod!(lib, 0o755)
      File.cp!(Path.join(priv, "leash_nif.so"), Path.join(lib, "leash_nif.so"))
      mounts = ["mount --bind #{priv} #{priv}", "mount -o remount,bind,noexec #{priv}"]

      vm = start_vm([], prefix: Narrow.mounted(mounts), os_env: %{"LEASH_NIF_DIR" => lib})

      code = """
      Process.flag(:trap_exit, true)
      options = #{inspect(command(:plain, carrier))}
      command = try do
        Leash.cmd("true")
      rescue
        error -> error.__struct__
      end
      {Leash.Worker.start_link(options), command, Leash.capabilities().warden}
      """

      assert VM.eval(vm, code) == {{:error, :no_warden}, Leash.Error, {:error, :eacces}}
      assert_eventually(fn -> VM.eval(vm, "Leash.list()") == [] end)
      assert_gone(carrier)
    end

    test "on the place of the library: the application does not start, and says what is wrong" do
      priv = Application.app_dir(:leash, "priv")
      mounts = ["mount --bind #{priv} #{priv}", "mount -o remount,bind,noexec #{priv}"]
      vm = VM.boot(Decoys.run_dir(), [], prefix: Narrow.mounted(mounts))
      on_exit(fn -> VM.stop(vm) end)
      error = assert_raise RuntimeError, fn -> VM.await(vm) end
      assert error.message =~ "native_library"
    end

    test "on /tmp nothing is lost" do
      carrier = new_carrier()
      # The library itself may be there.
      here = for dir <- [File.cwd!(), Application.app_dir(:leash)], dir =~ ~r|^/tmp/|, do: dir

      mounts =
        ["mount --bind /tmp /tmp", "mount -o remount,bind,noexec /tmp"] ++
          for dir <- here,
              mount <- ["mount --bind #{dir} #{dir}", "mount -o remount,bind,exec #{dir}"],
              do: mount

      run_dir = tmp_dir!()
      script = Path.join(run_dir, "script")
      File.write!(script, "#!/bin/sh")
      File.chmod!(script, 0o700)

      vm =
        start_vm([{"one", command(:setsid_child, carrier)}],
          run_dir: Path.join(run_dir, "runs"),
          prefix: Narrow.mounted(mounts)
        )

      assert VM.eval(vm, "try do System.cmd(#{inspect(script)}, []) rescue e -> e.original end") ==
               :eacces

      assert %{record: :ok, run_dir: true} = VM.eval(vm, "Leash.capabilities()")
      VM.command(vm, "stop")
      assert VM.await_line(vm, "stopped one ") =~ "cause: :stop"
      assert_gone(carrier)
    end
  end

  describe "without a capability" do
    @describetag needs: :setpriv

    test "everything works, and what a crash left is swept" do
      decoys = Decoys.all()
      carrier = new_carrier()
      dir = tmp_dir!()
      prefix = Narrow.without_capabilities()
      dead = start_vm([{"one", command(:setsid_child, carrier)}], run_dir: dir, prefix: prefix)
      assert %{pidfd: true, mark: true, record: :ok} = VM.eval(dead, "Leash.capabilities()")
      kill_all(dead)
      assert Carrier.members(carrier) != []
      vm = start_vm([], run_dir: dir, prefix: prefix)
      assert_gone(carrier)
      VM.stop(vm)
      assert Decoys.harmed(decoys) == []
    end
  end

  describe "an ordinary user" do
    @describetag needs: :setpriv

    test "ends its own, and neither sees root's record nor touches root's worker" do
      rooted = new_carrier()
      root_vm = start_vm([{"one", command(:setsid_child, rooted)}])
      Observer.signal(root_vm.workers["one"].shim, "STOP")
      dir = tmp_dir!()
      File.chown!(dir, Narrow.nobody())
      options = [run_dir: dir, prefix: Narrow.as_nobody(), os_env: %{"HOME" => "/tmp"}]
      own = [command: "sh", args: ["-c", "setsid sleep 67 & echo ready; wait"]]
      dead = start_vm([{"one", own}], options)
      left = fn -> Enum.filter(Carrier.members(dead.carrier), &sleeper?/1) end
      kill_all(dead)
      assert left.() != []
      vm = start_vm([], options)
      assert left.() == []
      root_worker = root_vm.workers["one"].os
      code = "Leash.OSProcess.kill(#{elem(root_worker, 0)})"
      assert {:error, _refused} = VM.eval(vm, code)
      # The user may not enter root's directory.
      assert Observer.alive?(root_worker)
      Observer.signal(root_vm.workers["one"].shim, "CONT")
    end
  end

  describe "a root directory with nothing in it but one program" do
    @describetag needs: :mounts

    test "is enough for the shim, which has no C library" do
      dir = tmp_dir!()
      File.chmod!(dir, 0o755)
      File.cp!(Script.shim(), Path.join(dir, "shim"))
      arguments = ~w(/shim --run-id=narrow1 -- /shim --version)
      {text, status} = System.cmd("chroot", [dir | arguments], stderr_to_stdout: true)
      assert {text =~ ~r/\Aleash-shim /, status} == {true, 0}
      # A failed exec is reported there, too.
      {text, status} =
        System.cmd("chroot", [dir | ~w(/shim --run-id=narrow1 -- /none)], stderr_to_stdout: true)

      assert status == 127
      assert text =~ "/none: not found"
    end
  end

  describe "a root directory without a shared library" do
    @describetag needs: :cli

    test "is enough for the command where it was built for musl" do
      {interpreter, _status} = System.cmd("grep", ["-ac", "/ld-linux", Cli.path()])

      if String.trim(interpreter) == "0" do
        dir = tmp_dir!()
        File.cp!(Cli.path(), Path.join(dir, "leash"))

        {text, status} = System.cmd("chroot", [dir, "/leash", "ps"], stderr_to_stdout: true)

        assert {text =~ "/proc is missing", status} == {true, 4}
      else
        IO.puts("Left out: the command in an empty root, since it was built against glibc")
      end
    end
  end

  defp sleeper?({pid, _ticks}), do: match?(["sleep", "67"], Observer.argv(pid))
end

defmodule Leash.WorkingDirectoryTest do
  use Leash.Test.Case, async: false

  test "every start of a VM in a deleted directory says so, and goes on in another" do
    vm = start_vm([])
    dir = tmp_dir!()

    said =
      VM.eval(vm, """
      Process.flag(:trap_exit, true)
      gone = Path.join(#{inspect(dir)}, "gone")
      File.mkdir!(gone)
      File.cd!(gone)
      File.rmdir!(gone)

      message = fn start ->
        try do
          start.()
        rescue
          error in [Leash.Error, Leash.OptionsError] -> Exception.message(error)
        end
      end

      deleted =
        Enum.map(
          [
            fn -> Leash.cmd("true") end,
            fn -> Leash.cmd("/bin/true", [], cd: "/") end,
            fn -> Leash.cmd("./true") end,
            fn -> Leash.stream!("true") |> Enum.to_list() end,
            fn -> Leash.open_port("true", []) end,
            fn -> Leash.open_port("./true", []) end,
            fn -> Leash.Worker.start_link(command: "./true") end,
            fn -> Leash.Worker.start_link(command: "true", stop: [{:cmd, ["./true"], 100}]) end
          ],
          message
        )

      worker = Leash.Worker.start_link(command: "true")
      File.cd!("/")
      {deleted, worker, Leash.cmd("pwd")}
      """)

    assert {deleted, {:error, {:shim, :no_working_directory}}, {"/\n", 0}} = said
    for text <- deleted, do: assert(text =~ "the VM's working directory was deleted")
    assert_eventually(fn -> VM.eval(vm, "Leash.list()") == [] end)
  end
end

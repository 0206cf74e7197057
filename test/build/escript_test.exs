defmodule Leash.Build.EscriptTest do
  # An escript is an archive, so the VM can load or execute nothing native from it.
  use Leash.Test.Case, async: true

  @moduletag :slow

  test "the application says in one sentence what is missing and what to do" do
    script = Path.join(tmp_dir!(), "kennel")
    ebin = Path.join(:code.lib_dir(:leash), "ebin")

    code =
      for name <- File.ls!(ebin),
          do: {to_charlist("leash/ebin/" <> name), File.read!(Path.join(ebin, name))}

    {:ok, _name, main} =
      :compile.forms([
        {:attribute, 1, :module, :kennel},
        {:attribute, 1, :export, [main: 1]},
        {:function, 1, :main, 1,
         [
           {:clause, 1, [{:var, 1, :_}], [],
            [
              {:call, 1, {:remote, 1, {:atom, 1, :io}, {:atom, 1, :format}},
               [
                 {:string, 1, ~c"~tp~n"},
                 {:cons, 1,
                  {:call, 1,
                   {:remote, 1, {:atom, 1, :application}, {:atom, 1, :ensure_all_started}},
                   [{:atom, 1, :leash}]}, {nil, 1}}
               ]}
            ]}
         ]}
      ])

    elixir = for app <- [:elixir, :logger], do: " -pa #{Path.join(:code.lib_dir(app), "ebin")}"

    :ok =
      :escript.create(to_charlist(script), [
        :shebang,
        {:emu_args, to_charlist("-escript main kennel#{elixir}")},
        {:archive, [{~c"kennel.beam", main} | code], []}
      ])

    File.chmod!(script, 0o755)
    {output, 0} = System.cmd(script, [], stderr_to_stdout: true)
    said = String.replace(output, ~r/\s+/, " ")

    assert said =~
             "needs its native library and leash-shim as files, and #{script} is an archive"

    assert said =~ "mix release"
    refute said =~ "on_load"
  end
end
